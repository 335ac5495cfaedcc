//! What each setting's text means, and what is wrong with it where it means nothing.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::load::Texts;
use super::roles;
use super::secret::masked;
use super::{
    BrokerSettings, ControlSettings, DefinitionSettings, Drift, HttpSettings, LogFormat, LogSettings, MirrorSettings,
    Mistake, NotifySettings, OidcSettings, ReplySettings, Secret, SecretUrls, Settings, ShutdownSettings, SmtpSettings,
    TapSettings, WebhookSettings,
};
use crate::units::{DURATION_FORM, SIZE_FORM, parse_bytes, parse_duration};
use crate::who::is_safe;

/// Messages are held in memory while they are recalled.
const MOST_RECALLED: u64 = 50_000;

/// Each takes a descriptor and some memory.
const MOST_CONNECTIONS: usize = 100_000;

/// A cause and a cure.
type Wrong = (String, String);

/// Reads every setting, adding each mistake; `None` if there was one.
pub(super) fn settings(texts: &Texts, mistakes: &mut Vec<Mistake>) -> Option<Settings> {
    let mut check = Check { texts, mistakes };
    // All are read before any is missed, so that every mistake is found.
    let amqp_url = check.read("broker.amqp_url", amqp_url);
    let management_url = check.read("broker.management_url", management_url);
    let prefix = check.read("broker.prefix", prefix);
    let connect_timeout = check.read("broker.connect_timeout", positive_duration);
    let confirm_timeout = check.read("broker.confirm_timeout", positive_duration);
    let ca_file = check.read("broker.ca_file", optional_path);
    let mirror_url = check.read("mirror.url", mirror_url);
    let listen = check.read("http.listen", |text| {
        text.parse()
            .map_err(|_| wrong("this is no IP address with a port", "write it like 127.0.0.1:7070 or [::]:7070"))
    });
    let auth_required = check.read("http.auth", |text| match text {
        "auto" => Ok(false),
        "required" => Ok(true),
        _ => Err(wrong("this is neither auto nor required", "write auto or required")),
    });
    let tls_cert = check.read("http.tls_cert", optional_path);
    let tls_key = check.read("http.tls_key", optional_path);
    let tls = check.both(("http.tls_cert", tls_cert), ("http.tls_key", tls_key));
    let max_connections = check.read("http.max_connections", |text| match text.parse::<usize>() {
        Ok(most) if (10..=MOST_CONNECTIONS).contains(&most) => Ok(most),
        _ => Err(wrong(format!("this is no whole number from 10 to {MOST_CONNECTIONS}"), "write a number like 1000")),
    });
    let rate_limit = check.read("http.rate_limit", |text| {
        text.parse::<u32>().map_err(|_| wrong("this is no whole number", "write a number like 1000, or 0 for no limit"))
    });
    let oidc = oidc(&mut check);
    let dir = check.read("definitions.dir", path);
    let reconcile_period = check.read("control.reconcile_period", positive_duration);
    let observation_gap = check.read("control.observation_gap", positive_duration);
    let report_grace = check.read("control.report_grace", positive_duration);
    let drift = check.read("control.drift", |text| match text {
        "repair" => Ok(Drift::Repair),
        "report" => Ok(Drift::Report),
        _ => Err(wrong("this is neither repair nor report", "write repair or report")),
    });
    let migration_patience = check.read("control.migration_patience", positive_duration);
    let recall_limit = check.read("control.recall_limit", |text| match text.parse::<u64>() {
        Ok(limit) if limit <= MOST_RECALLED => Ok(limit),
        _ => Err(wrong(format!("this is no whole number from 0 to {MOST_RECALLED}"), "write a number like 1000")),
    });
    let allow = check.read("replies.allow", |text| {
        regex_lite::Regex::new(text)
            .map_err(|error| wrong(format!("this is no regular expression: {error}"), r"write one like ^reply\."))
    });
    let max_bytes = check.read("tap.max_bytes", |text| match text.parse().ok().or_else(|| parse_bytes(text)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        Some(_) => Err(wrong("the tap has to hold something", "write a size above zero, like 1GiB")),
        None => Err(wrong("this is no size", format!("write {SIZE_FORM}"))),
    });
    let allow_private = check.read("webhooks.allow_private", boolean);
    let allow_http = check.read("webhooks.allow_http", boolean);
    let secret = check.read_secret("notify.secret", secret);
    let smtp_url = check.read("smtp.url", smtp_url);
    let from = check.read("smtp.from", |text| match (&smtp_url, text.contains('@')) {
        (Some(Some(_)), false) => {
            Err(wrong("this is no address of mail", "write who the mails are from: warrend@example.com"))
        }
        _ => Ok(text.to_owned()),
    });
    let filter = check.read("log.filter", |text| match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(wrong(
            format!("this is no log filter: {error}"),
            "write a level (error, warn, info, debug, trace) or warrend=debug,info",
        )),
    });
    let format = check.read("log.format", |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(wrong("there is no such format", "write text or json")),
    });
    let deadline = check.read("shutdown.deadline", positive_duration);

    Some(Settings {
        broker: BrokerSettings {
            amqp_url: amqp_url?,
            management_url: management_url?,
            prefix: prefix?,
            connect_timeout: connect_timeout?,
            confirm_timeout: confirm_timeout?,
            ca_file: ca_file?,
        },
        mirror: MirrorSettings { url: mirror_url? },
        http: HttpSettings {
            listen: listen?,
            auth_required: auth_required?,
            tls: tls?,
            max_connections: max_connections?,
            rate_limit: rate_limit?,
        },
        oidc: oidc?,
        definitions: DefinitionSettings { dir: dir? },
        control: ControlSettings {
            reconcile_period: reconcile_period?,
            observation_gap: observation_gap?,
            report_grace: report_grace?,
            drift: drift?,
            migration_patience: migration_patience?,
            recall_limit: recall_limit?,
        },
        replies: ReplySettings { allow: allow? },
        tap: TapSettings { max_bytes: max_bytes? },
        webhooks: WebhookSettings { allow_private: allow_private?, allow_http: allow_http? },
        notify: NotifySettings { secret: secret? },
        smtp: match (smtp_url?, from?) {
            (Some(url), from) => Some(SmtpSettings { url, from }),
            (None, _) => None,
        },
        log: LogSettings { filter: filter?, format: format? },
        shutdown: ShutdownSettings { deadline: deadline? },
    })
}

struct Check<'a> {
    texts: &'a Texts,
    mistakes: &'a mut Vec<Mistake>,
}

impl Check<'_> {
    /// The same, of what no mistake may show.
    fn read_secret<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<T> {
        let before = self.mistakes.len();
        let read = self.read(key, parse);
        for mistake in self.mistakes.iter_mut().skip(before) {
            mistake.value = Some("***".to_owned());
        }
        read
    }

    /// Two settings that are given together or not at all.
    fn both<T>(&mut self, one: (&str, Option<Option<T>>), other: (&str, Option<Option<T>>)) -> Option<Option<(T, T)>> {
        let missing = match (one.1?, other.1?) {
            (Some(a), Some(b)) => return Some(Some((a, b))),
            (None, None) => return Some(None),
            (Some(_), None) => other.0,
            (None, Some(_)) => one.0,
        };
        self.read(missing, |_| {
            Err(wrong("its other half is set", "set both http.tls_cert and http.tls_key, or neither"))
        })
    }

    fn read<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<T> {
        let (text, origin) = self.texts.get(key);
        match parse(text) {
            Ok(value) => Some(value),
            Err((cause, cure)) => {
                let (key, value, origin) = (key.to_owned(), Some(masked(text)), origin.to_owned());
                self.mistakes.push(Mistake { key, value, origin, cause, cure });
                None
            }
        }
    }
}

/// An issuer, or none: where one of its settings is given the others it needs have to be.
fn oidc(check: &mut Check<'_>) -> Option<Option<OidcSettings>> {
    let roles_claim = check.read("oidc.roles_claim", text);
    let name_claim = check.read("oidc.name_claim", text);
    let rights = check.read("oidc.roles", |text| roles::read(text).map_err(|error| wrong(error, roles::FORM)));
    let issuer = check.read("oidc.issuer", |text| match text {
        "" => Ok(None),
        text if Url::parse(text).is_ok_and(|url| is_safe(&url)) => Ok(Some(text.to_owned())),
        _ => Err(wrong("keys may come over https only", "write the issuer's URL as its tokens name it in iss")),
    });
    let needed = issuer.as_ref().is_some_and(Option::is_some);
    let audience = check.read("oidc.audience", |text| match text {
        "" if needed => Err(wrong("any token of the issuer would do", "write what tokens for this daemon have in aud")),
        text => Ok(text.to_owned()),
    });
    if needed && rights.as_ref().is_some_and(Vec::is_empty) {
        let _: Option<()> = check.read("oidc.roles", |_| Err(wrong("nobody may do anything", roles::FORM)));
        return None;
    }
    let (roles_claim, name_claim, rights, audience) = (roles_claim?, name_claim?, rights?, audience?);
    Some(issuer?.map(|issuer| OidcSettings { issuer, audience, roles_claim, name_claim, rights }))
}

fn text(text: &str) -> Result<String, Wrong> {
    match text {
        "" => Err(wrong("this names no claim", "write the name of a claim, or leave the line out")),
        text => Ok(text.to_owned()),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "read like all the others")]
fn optional_path(text: &str) -> Result<Option<PathBuf>, Wrong> {
    Ok((!text.trim().is_empty()).then(|| PathBuf::from(text)))
}

fn wrong(cause: impl Into<String>, cure: impl Into<String>) -> Wrong {
    (cause.into(), cure.into())
}

fn amqp_url(text: &str) -> Result<SecretUrls, Wrong> {
    let urls = urls(text, &["amqp", "amqps"])?;
    match urls.iter().find(|url| url.path() != urls[0].path()) {
        None => Ok(SecretUrls::new(urls)),
        Some(_) => Err(wrong(
            "these URLs name several virtual hosts",
            "name the nodes of one cluster, each with the same virtual host",
        )),
    }
}

/// One URL or several, separated by commas.
fn urls(text: &str, schemes: &[&str]) -> Result<Vec<Url>, Wrong> {
    text.split(',').map(|text| url(text.trim(), schemes)).collect()
}

fn url(text: &str, schemes: &[&str]) -> Result<Url, Wrong> {
    let form = format!(
        "write {}://USER:PASSWORD@HOST:PORT, or several separated by commas (a comma in a password is %2C)",
        schemes.join(":// or ")
    );
    let url = Url::parse(text).map_err(|error| wrong(format!("this is no URL: {error}"), form.clone()))?;
    if !schemes.contains(&url.scheme()) {
        return Err(wrong(format!("a URL of scheme {} does not fit here", url.scheme()), form));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("this URL names no host", form));
    }
    Ok(url)
}

fn management_url(text: &str) -> Result<Option<SecretUrls>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    urls(text, &["http", "https"])
        .map(|urls| Some(SecretUrls::new(urls)))
        .map_err(|(cause, cure)| (cause, format!("{cure}, or leave it empty to work without the management API")))
}

fn prefix(text: &str) -> Result<String, Wrong> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let first = text.bytes().next().is_some_and(allowed);
    if first && text.bytes().all(|c| allowed(c) || b"._-".contains(&c)) {
        // Names on the broker have at most 255 bytes; a queue key takes up to 100 of them.
        if text.len() <= 100 {
            return Ok(text.to_owned());
        }
        return Err(wrong("this is too long for names on the broker", "write at most 100 characters"));
    }
    Err(wrong(
        "this is no prefix for names on the broker",
        "write lower-case letters, digits, '.', '_' and '-', a letter or digit first",
    ))
}

fn positive_duration(text: &str) -> Result<Duration, Wrong> {
    match parse_duration(text) {
        Some(duration) if !duration.is_zero() => Ok(duration),
        Some(_) => Err(wrong("this has to be longer than nothing", format!("write {DURATION_FORM}"))),
        None => Err(wrong("this is no duration", format!("write {DURATION_FORM}"))),
    }
}

fn mirror_url(text: &str) -> Result<String, Wrong> {
    let cure = "write sqlite://PATH, like sqlite://data/warrend.db";
    match text.split_once("://") {
        Some(("sqlite", path)) if !path.trim().is_empty() => Ok(text.to_owned()),
        Some(("sqlite", _)) => Err(wrong("this names no file", cure)),
        Some(("postgres" | "postgresql", _)) => Err(wrong("this version keeps its mirror in SQLite only", cure)),
        _ => Err(wrong("this is no mirror that warrend knows", cure)),
    }
}

fn boolean(text: &str) -> Result<bool, Wrong> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong("this is neither true nor false", "write true or false")),
    }
}

/// As Standard Webhooks writes secrets, and as whoever signs reads them: nothing goes out unsigned because of a slip.
fn secret(text: &str) -> Result<Option<Secret>, Wrong> {
    let cure =
        "write whsec_ and 24 to 64 random bytes in base64, like the output of: echo whsec_$(openssl rand -base64 32)";
    if text.is_empty() {
        return Ok(None);
    }
    let bytes = text.strip_prefix("whsec_").and_then(|rest| STANDARD.decode(rest).ok());
    if bytes.is_some_and(|bytes| (24..=64).contains(&bytes.len())) {
        return Ok(Some(Secret::new(text.to_owned())));
    }
    Err(wrong("this is no secret for signatures", cure))
}

fn smtp_url(text: &str) -> Result<Option<SecretUrls>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    let url = url(text, &["smtp", "smtps"]).map_err(|(cause, _)| {
        wrong(cause, "write smtp://USER:PASSWORD@HOST:587 or smtps://..., or leave it empty: no mails")
    })?;
    Ok(Some(SecretUrls::new(vec![url])))
}

fn path(text: &str) -> Result<PathBuf, Wrong> {
    if text.trim().is_empty() {
        return Err(wrong("this names no directory", "write a path, like config/queues"));
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outward::sign;

    #[test]
    fn a_secret_that_is_accepted_signs() {
        let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        for (text, good) in [
            (of(24), true),
            (of(32), true),
            (of(64), true),
            (of(66), false),
            (of(23), false),
            (of(22), false),
            (format!("whsec_=={}", "A".repeat(30)), false),
            ("A".repeat(32), false),
        ] {
            let accepted = secret(&text).is_ok_and(|secret| secret.is_some());
            assert_eq!((accepted, sign::key(&text).is_some()), (good, good), "{text}");
        }
        assert!(secret("").unwrap_or_default().is_none());
    }
}
