//! The stores that the cases run against.

use cloakroom::SessionId;
use testbed::TempDir;

use crate::{Entry, Subject};

pub(crate) const ENTRIES: &[Entry] = &[
    Entry { name: "files", needs: &[], example: "/", start: || Box::new(Directory::new(0)) },
    Entry { name: "files, 2 levels", needs: &[], example: "2;/", start: || Box::new(Directory::new(2)) },
];

/// A directory, `levels` deep.
struct Directory {
    directory: TempDir,
    levels: usize,
}

impl Directory {
    /// The characters that the ids of the cases start with.
    const CHARACTERS: &[&str] = &["a", "A", "b", "B", "x", "-", ",", "0", "1"];

    fn new(levels: usize) -> Directory {
        let directory = TempDir::new();
        let mut deepest = vec![directory.path().to_owned()];
        for _ in 0..levels {
            deepest = deepest
                .iter()
                .flat_map(|above| Self::CHARACTERS.iter().map(|name| above.join(name)))
                .inspect(|level| std::fs::create_dir(level).unwrap())
                .collect();
        }
        Directory { directory, levels }
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let mut files = vec![self.directory.path().to_owned()];
        for _ in 0..=self.levels {
            let inside = |directory: &std::path::PathBuf| std::fs::read_dir(directory).unwrap();
            files = files.iter().flat_map(inside).map(|entry| entry.unwrap().path()).collect();
        }
        files
    }
}

impl Subject for Directory {
    fn save_path(&self) -> String {
        let path = self.directory.path().display();
        match self.levels {
            0 => path.to_string(),
            levels => format!("{levels};{path}"),
        }
    }

    fn evict(&self, id: &SessionId) {
        let name = format!("sess_{}", id.as_str());
        let file = self.files().into_iter().find(|file| file.ends_with(&name)).unwrap();
        std::fs::remove_file(file).unwrap();
    }

    fn is_empty(&self) -> bool {
        self.files().is_empty()
    }
}
