//! The hosts file: names whose addresses this machine has in a file. Read again when it changes.

use std::collections::HashMap;
use std::io::{self, BufRead as _, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

/// Bytes that are read of the file: lists of a hundred thousand names exist.
const FILE_BYTES_MAX: u64 = 16 << 20;

type Names = HashMap<Box<str>, Vec<IpAddr>>;

/// A hosts file.
pub(super) struct HostsFile {
    path: PathBuf,
    read: Mutex<(Option<SystemTime>, Arc<Names>)>,
}

impl HostsFile {
    /// The one at `path`, which need not exist.
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read: Mutex::default() }
    }

    /// The addresses of `name`, which is in small letters. Empty if the file does not name it. Reads the file if it has changed: blocks.
    pub(super) fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let changed = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        let mut read = self.read.lock();
        if changed.is_none() || read.0 != changed {
            let names = names_of(&self.path).unwrap_or_else(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, path = %self.path.display(), "the hosts file can't be read");
                }
                Names::default()
            });
            *read = (changed, Arc::new(names));
        }
        read.1.get(name).cloned()
    }
}

fn names_of(path: &Path) -> io::Result<Names> {
    let file = std::fs::File::open(path)?;
    let mut names = Names::new();
    for line in io::BufReader::new(file.take(FILE_BYTES_MAX)).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        for name in words {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            names.entry(name.into()).or_default().push(address);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_file_are_known_in_any_case_and_a_changed_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let hosts = HostsFile::new(&path);
        assert_eq!(hosts.addresses("a.test"), None);
        let text =
            "127.0.0.5 A.test other # 127.0.0.6 no\n\n# 127.0.0.7 a.test\nfe80::1%eth0 a.test\n::1\ta.test\r\nx y\n";
        std::fs::write(&path, text).unwrap();
        let ips = |text: &str| Some(text.split(' ').map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>());
        assert_eq!(hosts.addresses("a.test"), ips("127.0.0.5 ::1"));
        assert_eq!(hosts.addresses("other"), ips("127.0.0.5"));
        assert_eq!((hosts.addresses("no"), hosts.addresses("y")), (None, None));
        std::fs::write(&path, "127.0.0.8 a.test\n").unwrap();
        let later = crate::clock::now() + std::time::Duration::from_secs(5);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!((hosts.addresses("a.test"), hosts.addresses("other")), (ips("127.0.0.8"), None));
    }
}
