//! How far a long command came, kept beside the file that it works on.
//!
//! Written whole under another name and then put in place, so that it is either the old one or the new one. Where the folder
//! may not be written, it lies in the user's folder for state.

use std::fs::{self, File};
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::exit::{Exit, Failed};

/// `FILE` with something behind its name: beside it, or in the folder for state under a name of its own.
pub(super) fn beside(file: &Path, suffix: &str) -> Result<PathBuf, Failed> {
    let with = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
    let here = with(file);
    if here.exists() || writable(file.parent().unwrap_or(Path::new("."))) {
        return Ok(here);
    }
    let known = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = known("XDG_STATE_HOME").or_else(|| known("HOME").map(|home| home.join(".local/state")));
    let folder = state.map(|state| state.join("warrend")).ok_or_else(|| {
        Failed::new(
            Exit::Failure,
            format!("nothing can be written beside {}, and neither XDG_STATE_HOME nor HOME is set", file.display()),
        )
    })?;
    fs::create_dir_all(&folder).map_err(|error| cannot("make the folder", &folder, &error))?;
    // Files of one name in several folders are told apart.
    let whole = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let name = whole.display().to_string().replace('/', "%");
    Ok(with(&folder.join(name)))
}

fn writable(folder: &Path) -> bool {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    tempfile::Builder::new().prefix(".warrend-").tempfile_in(folder).is_ok()
}

/// What was noted there; `None` where there is nothing.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failed> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failed::new(
                Exit::Data,
                format!("{} is no journal of this version: {error}; delete it to begin anew", path.display()),
            )
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

/// Notes it, in place of what was noted before.
pub(super) fn write(path: &Path, journal: &impl Serialize) -> Result<(), Failed> {
    let fresh = PathBuf::from(format!("{}.new", path.display()));
    let written = serde_json::to_vec_pretty(journal).map_err(Into::into).and_then(|bytes| {
        let mut file = File::create(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        fs::rename(&fresh, path)
    });
    written.map_err(|error: std::io::Error| cannot("write", path, &error))
}

/// The file that a journal tells of, to be written on behind so many bytes; what stands behind them is cut away. With none it
/// begins anew. `anew` says how to where the file is shorter.
pub(super) fn open_behind(path: &Path, bytes: u64, anew: &str) -> Result<File, Failed> {
    let opened = File::options().write(true).create(bytes == 0).truncate(false).open(path).and_then(|mut file| {
        if file.metadata()?.len() < bytes {
            return Err(std::io::Error::other(format!("it is shorter than the journal says; {anew}")));
        }
        file.set_len(bytes)?;
        file.seek(SeekFrom::End(0))?;
        Ok(file)
    });
    opened.map_err(|error| cannot("write", path, &error))
}

/// It is over.
pub(super) fn remove(path: &Path) -> Result<(), Failed> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(cannot("remove", path, &error)),
        _ => Ok(()),
    }
}

pub(super) fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failed {
    Failed::new(Exit::Failure, format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = beside(&folder.path().join("a.csv"), ".import.json").ok().unwrap();
        assert_eq!(path, folder.path().join("a.csv.import.json"));
        assert_eq!(read::<Vec<u32>>(&path).ok().unwrap(), None);
        write(&path, &[1, 2]).ok().unwrap();
        write(&path, &[3]).ok().unwrap();
        assert_eq!(read::<Vec<u32>>(&path).ok().unwrap(), Some(vec![3]));
        assert_eq!(read::<String>(&path).err().unwrap().exit, Exit::Data);
        remove(&path).ok().unwrap();
        remove(&path).ok().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
