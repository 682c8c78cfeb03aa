//! The contents of folders, kept for comparison.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of a folder and of those in it, with all their bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Snapshot {
    pub(crate) fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(inner) = folders.pop() {
            for entry in fs::read_dir(inner).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap().to_owned();
                    files.insert(name, fs::read(path).unwrap());
                }
            }
        }
        Self { files }
    }

    pub(crate) fn write_to(&self, folder: &Path) {
        for (name, bytes) in &self.files {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        }
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        let names = self.files.keys();
        names.map(|name| name.to_str().unwrap()).collect()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
