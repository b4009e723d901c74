//! Reading the files that hold settings and secrets: texts of a bounded size.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The most that a file of settings may hold, in bytes: what is larger was not meant, or has no end.
const SIZE_MAX: u64 = 16 << 20;

/// Why a file gives no text.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is none.
    Missing(io::Error),
    /// It is a directory.
    Directory,
    /// It is larger than 16 MiB.
    TooLarge,
    /// It is not UTF-8: the text up to there.
    NotUtf8(String),
    /// The system says no.
    Io(io::Error),
}

impl Fault {
    /// What is wrong: `there is no such file`.
    pub fn says(&self) -> String {
        match self {
            Fault::Missing(_) => "there is no such file".to_owned(),
            Fault::Directory => "is a directory".to_owned(),
            Fault::TooLarge => format!("holds more than {}MiB", SIZE_MAX >> 20),
            Fault::NotUtf8(_) => "is not UTF-8".to_owned(),
            Fault::Io(error) => format!("cannot be read: {error}"),
        }
    }
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, Fault> {
    let bytes = read_bytes(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing(error),
        io::ErrorKind::IsADirectory => Fault::Directory,
        _ => Fault::Io(error),
    })?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(Fault::TooLarge);
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let mut bytes = error.into_bytes();
        bytes.truncate(good);
        Fault::NotUtf8(String::from_utf8_lossy(&bytes).into_owned())
    })
}

/// The bytes of a file, at most one more than are taken for a text.
pub(super) fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
