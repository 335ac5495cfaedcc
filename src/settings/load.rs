//! The layers: which text each setting has and where it came from. What the texts mean is [`super::check`]'s.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat, Source, Value, ValueKind};

use super::secret::masked;
use super::{DEFAULT_PATH, ENV_PREFIX, KEYS, Mistake, Settings, SettingsError, check};

/// The text of every setting, and where it was read.
pub(super) struct Texts(BTreeMap<&'static str, (String, String)>);

impl Texts {
    /// Text and origin of a setting of [`KEYS`].
    pub(super) fn get(&self, key: &str) -> (&str, &str) {
        self.0.get(key).map_or(("", "nowhere"), |(text, origin)| (text, origin))
    }
}

pub(super) fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Settings, SettingsError> {
    let path = file.unwrap_or_else(|| Path::new(DEFAULT_PATH));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some((path.to_owned(), text)),
        Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(SettingsError::Read { path: path.to_owned(), reason: error.to_string() }),
    };
    // Lossy is enough: no setting has a meaning that is not UTF-8, so such a value is refused by its check.
    let environment = environment
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with(ENV_PREFIX))
        .collect();
    layers(text, environment)
}

/// Puts the environment's `WARREND__` variables over the file over the defaults, and checks everything.
pub(super) fn layers(
    file: Option<(PathBuf, String)>,
    environment: Vec<(String, String)>,
) -> Result<Settings, SettingsError> {
    let mut mistakes = Vec::new();
    let (path, from_file) = match file {
        Some((path, text)) => {
            let values = read_yaml(&text).map_err(|reason| SettingsError::Read { path: path.clone(), reason })?;
            (path.display().to_string(), flat(values, &path.display().to_string(), &mut mistakes))
        }
        None => (String::new(), BTreeMap::new()),
    };
    let from_environment = known_variables(environment, &mut mistakes);

    let merged = merge(&from_file, &from_environment)
        .map_err(|error| SettingsError::Read { path: path.clone().into(), reason: error.to_string() })?;
    let texts = KEYS.iter().map(|key| {
        let origin = if from_environment.contains_key(&variable(key.name)) {
            format!("environment variable {}", variable(key.name))
        } else if from_file.contains_key(key.name) {
            path.clone()
        } else {
            "built in".to_owned()
        };
        let text = merged.get_string(key.name).unwrap_or_else(|_| key.default.to_owned());
        (key.name, (text, origin))
    });

    match check::settings(&Texts(texts.collect()), &mut mistakes) {
        Some(settings) if mistakes.is_empty() => Ok(settings),
        _ => Err(SettingsError::Wrong(mistakes)),
    }
}

fn merge(
    file: &BTreeMap<&'static str, String>,
    environment: &HashMap<String, String>,
) -> Result<Config, config::ConfigError> {
    let mut layers = Config::builder();
    for key in KEYS {
        layers = layers.set_default(key.name, key.default)?;
    }
    for (key, value) in file {
        layers = layers.set_default(*key, value.as_str())?;
    }
    let environment =
        Environment::with_prefix("WARREND").prefix_separator("__").separator("__").source(Some(environment.clone()));
    layers.add_source(environment).build()
}

fn read_yaml(text: &str) -> Result<config::Map<String, Value>, String> {
    File::from_str(text, FileFormat::Yaml).collect().map_err(|error| match error {
        config::ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    })
}

/// Brings the file's groups down to `group.name` and keeps those that are settings.
fn flat(
    values: config::Map<String, Value>,
    origin: &str,
    mistakes: &mut Vec<Mistake>,
) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    let mut open: Vec<(String, Value)> = values.into_iter().collect();
    open.sort_by(|a, b| b.0.cmp(&a.0));
    while let Some((name, value)) = open.pop() {
        let is_group = KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(group, _)| group == name));
        let known = KEYS.iter().find(|key| key.name == name);
        let mut wrong = |value: Option<String>, cause: &str, cure: String| {
            mistakes.push(Mistake {
                key: name.clone(),
                value,
                origin: origin.to_owned(),
                cause: cause.to_owned(),
                cure,
            });
        };
        match (known, value.kind) {
            // A group of which everything is commented out.
            (None, ValueKind::Nil) if is_group => {}
            (None, ValueKind::Table(inner)) if is_group => {
                let mut inner: Vec<_> =
                    inner.into_iter().map(|(child, value)| (format!("{name}.{child}"), value)).collect();
                inner.sort_by(|a, b| b.0.cmp(&a.0));
                open.extend(inner);
            }
            (None, kind) if is_group => {
                let example =
                    KEYS.iter().find(|key| key.name.starts_with(&format!("{name}."))).map_or("", |key| key.name);
                wrong(
                    scalar(kind),
                    "this is a group of settings, not one",
                    format!("write settings below it, like {example}"),
                );
            }
            (None, _) => wrong(None, "there is no such setting", suggestion(&name, KEYS.iter().map(|key| key.name))),
            (Some(key), kind) => match scalar(kind) {
                Some(text) => {
                    found.insert(key.name, text);
                }
                None => wrong(
                    None,
                    "this needs one value",
                    format!("write text, like {}, or leave the line out", key.default),
                ),
            },
        }
    }
    found
}

/// The text of a plain value; `None` for null, lists and groups.
fn scalar(kind: ValueKind) -> Option<String> {
    match kind {
        ValueKind::Nil | ValueKind::Table(_) | ValueKind::Array(_) => None,
        ValueKind::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// Keeps the variables that are settings; reports those that are not.
fn known_variables(environment: Vec<(String, String)>, mistakes: &mut Vec<Mistake>) -> HashMap<String, String> {
    let names: Vec<String> = KEYS.iter().map(|key| variable(key.name)).collect();
    let (known, unknown): (Vec<_>, Vec<_>) = environment.into_iter().partition(|(name, _)| names.contains(name));
    for (name, _) in unknown {
        let cure = suggestion(&name, names.iter().map(String::as_str));
        let cause = "there is no such setting".to_owned();
        mistakes.push(Mistake { key: name, value: None, origin: "environment".to_owned(), cause, cure });
    }
    known.into_iter().collect()
}

/// `WARREND__BROKER__AMQP_URL` for `broker.amqp_url`.
fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

fn suggestion<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    // The name as written may carry a value by mistake (`WARREND__X=secret@`), so it is never echoed unmasked.
    let name = masked(name);
    known
        .max_by(|a, b| strsim::jaro_winkler(&name, a).total_cmp(&strsim::jaro_winkler(&name, b)))
        .map_or_else(String::new, |nearest| format!("the nearest is {nearest}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::settings::LogFormat;

    #[expect(clippy::unnecessary_wraps, reason = "what the loader takes")]
    fn file(text: &str) -> Option<(PathBuf, String)> {
        Some((PathBuf::from("w.yaml"), text.to_owned()))
    }

    fn env(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn mistakes(file_text: &str, environment: Vec<(String, String)>) -> Vec<Mistake> {
        match layers(file(file_text), environment) {
            Err(SettingsError::Wrong(mistakes)) => mistakes,
            other => panic!("expected mistakes, not {other:?}"),
        }
    }

    #[test]
    fn the_built_in_defaults_pass_their_own_checks() {
        let settings = Settings::builtin().unwrap();
        assert_eq!(settings.broker.prefix, "wq");
        assert_eq!(settings.control.observation_gap, Duration::from_secs(10));
        assert_eq!(settings.tap.max_bytes, 1 << 30);
        assert_eq!(settings.log.format, LogFormat::Text);
    }

    #[test]
    fn the_environment_goes_over_the_file_and_the_file_over_the_defaults() {
        let text = "broker: {prefix: mine, connect_timeout: 1s}\nlog:\nhttp:\n  listen: '[::1]:80'\n";
        let settings = layers(file(text), vec![env("WARREND__BROKER__PREFIX", "7")]).unwrap();
        assert_eq!(settings.broker.prefix, "7");
        assert_eq!(settings.broker.connect_timeout, Duration::from_secs(1));
        assert_eq!(settings.broker.confirm_timeout, Duration::from_secs(30));
        assert_eq!(settings.http.listen.to_string(), "[::1]:80");
    }

    #[test]
    fn an_empty_management_url_means_none() {
        let settings = layers(None, vec![env("WARREND__BROKER__MANAGEMENT_URL", "")]).unwrap();
        assert!(settings.broker.management_url.is_none());
    }

    #[test]
    fn several_urls_are_the_nodes_of_one_cluster() {
        let urls = |text: &str| layers(None, vec![env("WARREND__BROKER__AMQP_URL", text)]).map(|s| s.broker.amqp_url);
        let two = urls("amqp://u:p%2Cw@a/%2f, amqps://u:pw@b:5671/%2f").unwrap();
        assert_eq!(two.expose().collect::<Vec<_>>(), ["amqp://u:p%2Cw@a/%2f", "amqps://u:pw@b:5671/%2f"]);
        for (text, cause) in [
            ("amqp://a/x,amqp://b/y", "several virtual hosts"),
            ("amqp://a/x,", "no URL"),
            ("amqp://a/x,http://b/x", "scheme http"),
        ] {
            let error = urls(text).unwrap_err().to_string();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let text = "broker: {amqp_url: 'http://u:pw@h', prefix: A, connect_timeout: 0s, confirm_timeout: ~, amqp_ulr: x}\n\
                    mirror: {url: 'postgres://u:pw@h/db'}\nhttp: {listen: 'localhost'}\ndefinitions: {dir: ''}\n\
                    control: {reconcile_period: soon, report_grace: [1]}\nreplies: {allow: '('}\ntap: {max_bytes: much}\n\
                    log: {filter: 'a=b=c', format: xml}\nshutdown: 3s\nqueues: {a: 1}\n";
        let found = mistakes(
            text,
            vec![env("WARREND__BROKER__MANAGMENT_URL", "x"), env("WARREND__BROKER__MANAGEMENT_URL", "ftp://h")],
        );
        let mut keys: Vec<&str> = found.iter().map(|mistake| mistake.key.as_str()).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            [
                "WARREND__BROKER__MANAGMENT_URL",
                "broker.amqp_ulr",
                "broker.amqp_url",
                "broker.confirm_timeout",
                "broker.connect_timeout",
                "broker.management_url",
                "broker.prefix",
                "control.reconcile_period",
                "control.report_grace",
                "definitions.dir",
                "http.listen",
                "log.filter",
                "log.format",
                "mirror.url",
                "queues",
                "replies.allow",
                "shutdown",
                "tap.max_bytes",
            ]
        );
        assert!(found.iter().all(|mistake| !mistake.cause.is_empty() && !mistake.cure.is_empty()));
        let printed = SettingsError::Wrong(found).to_string();
        assert!(printed.starts_with("18 settings are wrong:"), "{printed}");
        assert!(!printed.contains("pw@"), "{printed}");
    }

    #[test]
    fn an_unknown_variable_names_the_nearest_known_one() {
        let found = mistakes("", vec![env("WARREND__BROKER__AMQP_URI", "x")]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].cure, "the nearest is WARREND__BROKER__AMQP_URL");
    }

    #[test]
    fn odd_variable_names_are_unknown_settings_and_no_crash() {
        for name in ["WARREND__", "WARREND____", "WARREND__A[", "WARREND__broker__prefix", "WARREND__BROKER"] {
            assert_eq!(mistakes("", vec![env(name, "x")]).len(), 1, "{name}");
        }
    }

    #[test]
    fn only_the_prefix_makes_a_variable_a_setting() {
        let environment = [("WARREND_URL", "x"), ("PATH", "y"), ("WARREND__BROKER__PREFIX", "z")];
        let environment = environment.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.yaml");
        std::fs::write(&path, "").unwrap();
        assert_eq!(load(Some(&path), environment.into_iter()).unwrap().broker.prefix, "z");
    }

    #[test]
    fn a_file_asked_for_has_to_exist() {
        let error = load(Some(Path::new("no/such.yaml")), std::iter::empty()).unwrap_err();
        assert!(matches!(error, SettingsError::Read { .. }), "{error}");
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_file() {
        for text in ["a: [", "- 1", "just text", "broker: {prefix: a, prefix: b}"] {
            let error = layers(file(text), Vec::new()).unwrap_err();
            assert!(error.to_string().contains("w.yaml"), "{text}: {error}");
        }
    }

    #[test]
    fn the_sample_file_holds_every_setting_with_its_default_and_a_comment() {
        let text = include_str!("../../config/warrend.yaml");
        let mut wrong = Vec::new();
        let found = flat(read_yaml(text).unwrap(), "sample", &mut wrong);
        assert_eq!(wrong, []);
        let expected: BTreeMap<&str, String> = KEYS.iter().map(|key| (key.name, key.default.to_owned())).collect();
        assert_eq!(found, expected);
        for key in KEYS {
            let (_, name) = key.name.split_once('.').unwrap();
            let lines: Vec<&str> = text.lines().collect();
            let at = lines.iter().position(|line| line.trim_start().starts_with(&format!("{name}:"))).unwrap();
            assert!(lines[at - 1].trim_start().starts_with('#'), "{} has no comment", key.name);
        }
    }
}
