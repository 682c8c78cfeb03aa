//! The layers of the laboratory: none uses a later one.

use std::fs;
use std::path::Path;

/// The layers, from the lowest up.
const LAYERS: [&str; 6] = [
    "data",
    "run",
    "landscape",
    "post_hoc",
    "experiment",
    "report",
];

#[test]
fn no_layer_uses_a_later_one() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = 0;
    for (index, layer) in LAYERS.iter().enumerate() {
        let mut folders = vec![sources.join(layer)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    files += 1;
                    let source = fs::read_to_string(&path).unwrap();
                    for later in &LAYERS[index + 1..] {
                        let uses = source.contains(&format!("crate::{later}"));
                        assert!(!uses, "{} uses `{later}`", path.display());
                    }
                }
            }
        }
    }
    assert!(files > 40, "{files}");
}
