//! What a client shows: a token, from a file or a variable and never from the command line, which everybody on the machine can
//! read.

use std::path::Path;

use reqwest::header::HeaderValue;

use super::exit::{Exit, Failed};

/// The variable that holds a token.
const VARIABLE: &str = "WARREND_TOKEN";

/// The header that shows the token, if there is one.
pub(super) fn token(file: Option<&Path>) -> Result<Option<HeaderValue>, Failed> {
    let usage = |why: String| Failed::new(Exit::Usage, why);
    let text = match file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| usage(format!("cannot read the token in {}: {error}", path.display())))?,
        None => std::env::var(VARIABLE).unwrap_or_default(),
    };
    let from = file.map_or_else(|| VARIABLE.to_owned(), |path| path.display().to_string());
    header(&text, &from).map_err(usage)
}

fn header(text: &str, from: &str) -> Result<Option<HeaderValue>, String> {
    let text = text.trim();
    if text.is_empty() {
        return if from == VARIABLE { Ok(None) } else { Err(format!("{from} holds no token")) };
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {text}"))
        .ok()
        .filter(|_| !text.contains(char::is_whitespace))
        .ok_or_else(|| format!("what {from} holds is no token: it has to be one word"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The certificates of a PEM file.
pub(super) fn ca(file: Option<&Path>) -> Result<Vec<reqwest::Certificate>, Failed> {
    let Some(path) = file else { return Ok(Vec::new()) };
    let usage =
        |why: String| Failed::new(Exit::Usage, format!("cannot read certificates in {}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| usage(error.to_string()))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&bytes).map_err(|error| usage(error.to_string()))?;
    if certificates.is_empty() { Err(usage("there is none".to_owned())) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word() {
        let shown = |text: &str, from: &str| header(text, from).map(|value| value.is_some());
        assert_eq!(shown("wrd_x\n", "f"), Ok(true));
        assert_eq!(shown("", VARIABLE), Ok(false));
        assert!(shown(" ", "f").is_err());
        assert!(shown("a b", "f").is_err());
        assert!(shown("a\nb", VARIABLE).is_err());
        assert!(header("wrd_x", "f").unwrap().unwrap().is_sensitive());
    }
}
