//! Bytes of a file as text, or what makes them none.

/// Why bytes are no text that can be read.
pub(super) struct Unread {
    pub cause: String,
    pub help: String,
}

/// Takes UTF-8 without NUL; a byte order mark may stand in front.
pub(super) fn read(bytes: Vec<u8>) -> Result<String, Unread> {
    let as_utf_8 = || "save it as UTF-8".to_owned();
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Unread { cause: "it is UTF-16 text".to_owned(), help: as_utf_8() });
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        let cause = format!("it is no text: {} has a NUL byte", place(&bytes[..at]));
        let help =
            "save it as UTF-8; UTF-16 without its mark looks like this, and so do files that were cut off".to_owned();
        return Err(Unread { cause, help });
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let cause = format!("it is not UTF-8 text: {} has bytes that are no characters", place(before));
        Unread { cause, help: as_utf_8() }
    })
}

/// Where the bytes end.
fn place(before: &[u8]) -> String {
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let last = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    format!("line {line}, column {}", String::from_utf8_lossy(last).chars().count() + 1)
}
