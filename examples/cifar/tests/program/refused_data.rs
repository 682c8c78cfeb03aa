//! Data that cannot be trained on.

use std::fs;
use std::path::{Path, PathBuf};

use crate::data_folder::{BinaryFile, write_image_folder};
use crate::small_run::train;

/// The program's message about a folder of images after `damage`, with `DATA` for the folder.
fn refusal(damage: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    fs::create_dir(&data).unwrap();
    damage(&data);
    let data = data.to_str().unwrap();
    let refusal = train(&["--data", data], &out).end().refusal();
    assert!(!out.exists(), "a run was begun");
    refusal.replace(data, "DATA")
}

/// An image of Pillow's.
fn of_pillow(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/images");
    Path::new(folder).join(name)
}

#[test]
fn a_folder_that_is_not_there_is_named_with_what_would_do() {
    let refusal = refusal(|data| fs::remove_dir(data).unwrap());
    assert!(refusal.starts_with("DATA: no such folder"), "{refusal}");
    assert!(refusal.contains("`synthetic`"), "{refusal}");
}

#[test]
fn a_folder_of_neither_layout_is_named_with_what_is_in_it() {
    let refusal = refusal(|data| fs::write(data.join("cats.zip"), "").unwrap());
    assert!(
        refusal.starts_with("DATA: expected data_batch_1.bin"),
        "{refusal}"
    );
    assert!(refusal.ends_with("found cats.zip"), "{refusal}");
}

#[test]
fn a_binary_file_of_another_length_is_named_with_both_lengths() {
    for (bytes, problem) in [(30_729_999, "truncated"), (30_730_001, "too long")] {
        let refusal = refusal(|data| {
            let file = BinaryFile { bytes, label: None };
            file.write_to(&data.join("data_batch_1.bin"));
        });
        assert!(refusal.starts_with("DATA/data_batch_1.bin: "), "{refusal}");
        for part in ["30730000 bytes", &format!("found {bytes}"), problem] {
            assert!(refusal.contains(part), "{refusal}");
        }
    }
}

#[test]
fn a_binary_file_that_is_missing_is_named() {
    let refusal = refusal(|data| BinaryFile::WHOLE.write_to(&data.join("data_batch_1.bin")));
    assert!(
        refusal.starts_with("DATA/data_batch_2.bin: no such file"),
        "{refusal}"
    );
}

#[test]
fn a_label_out_of_range_is_named_with_its_record() {
    let refusal = refusal(|data| {
        let file = BinaryFile {
            label: Some((9_999, 10)),
            ..BinaryFile::WHOLE
        };
        file.write_to(&data.join("data_batch_1.bin"));
    });
    assert!(refusal.starts_with("DATA/data_batch_1.bin: "), "{refusal}");
    assert!(
        refusal.contains("record 9999 (counted from 0) has label 10"),
        "{refusal}"
    );
    assert!(refusal.contains("expected 0 to 9"), "{refusal}");
}

#[test]
fn cifar_100_is_told_by_its_files_and_refused_as_strictly() {
    let names = refusal(|data| fs::write(data.join("train.bin"), "").unwrap());
    assert_eq!(
        names,
        "DATA/fine_label_names.txt: no such file; unpack all of cifar-100-binary.tar.gz"
    );
    let truncated = refusal(|data| {
        let names: String = (0..100).map(|label| format!("class {label}\n")).collect();
        fs::write(data.join("fine_label_names.txt"), names).unwrap();
        fs::write(data.join("train.bin"), "half").unwrap();
    });
    assert_eq!(
        truncated,
        "DATA/train.bin: expected 153700000 bytes (50000 records of 3074 bytes), found 4: the file is \
         truncated; unpack cifar-100-binary.tar.gz again"
    );
}

#[test]
fn a_class_without_an_image_is_named() {
    let refusal = refusal(|data| {
        write_image_folder(data, &["cat", "dog"], 1);
        fs::remove_file(data.join("test/dog/0.png")).unwrap();
    });
    assert!(refusal.starts_with("DATA/test/dog: no images"), "{refusal}");
}

#[test]
fn a_class_without_a_folder_to_test_on_is_named() {
    let refusal = refusal(|data| {
        write_image_folder(data, &["cat", "dog"], 1);
        fs::remove_dir_all(data.join("test/dog")).unwrap();
    });
    assert!(
        refusal.contains("class dog is in train/ and not in test/"),
        "{refusal}"
    );
}

#[test]
fn an_image_that_cannot_be_read_is_named() {
    let refusal = refusal(|data| {
        write_image_folder(data, &["cat", "dog"], 2);
        fs::write(data.join("train/cat/1.png"), "no picture at all").unwrap();
    });
    assert!(
        refusal.starts_with("DATA/train/cat/1.png: not a readable image"),
        "{refusal}"
    );
}

#[test]
fn a_truncated_image_is_named() {
    let refusal = refusal(|data| {
        write_image_folder(data, &["cat", "dog"], 1);
        let image = fs::read(of_pillow("baseline_420.jpg")).unwrap();
        fs::write(data.join("test/dog/1.jpg"), &image[..image.len() / 2]).unwrap();
    });
    assert!(
        refusal.starts_with("DATA/test/dog/1.jpg: not a readable image"),
        "{refusal}"
    );
}

#[test]
fn an_image_of_a_format_that_is_not_read_is_named() {
    let refusal = refusal(|data| {
        write_image_folder(data, &["cat", "dog"], 1);
        fs::write(data.join("train/cat/1.heic"), "").unwrap();
    });
    assert!(
        refusal.starts_with("DATA/train/cat/1.heic: an image that cannot be read"),
        "{refusal}"
    );
}

#[test]
fn what_is_passed_over_or_to_be_turned_is_said_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    write_image_folder(&data, &["cat", "dog"], 1);
    fs::write(data.join("train/cat/labels.txt"), "").unwrap();
    fs::write(data.join("test/.DS_Store"), "").unwrap();
    fs::copy(of_pillow("turned.jpg"), data.join("train/cat/1.jpg")).unwrap();
    let data = data.to_str().unwrap();
    // It ends once the images are loaded.
    let ended = train(&["--data", data, "--train-items", "100"], &out).end();
    assert_eq!(
        ended.output.replace(data, "DATA"),
        "DATA: passed over 2 entries, such as test/.DS_Store: hidden, not an image by the extension, or beside \
         train/ and test/\n\
         DATA: took 1 image, such as train/cat/1.jpg, as stored, though with an EXIF orientation: it is not \
         applied, as in torchvision\n"
    );
    let refusal = ended.refusal();
    assert!(refusal.contains("at most 3"), "{refusal}");
}

#[test]
fn more_images_than_there_are_are_refused_with_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let refusal = train(&["--train-items", "1000000"], &out).end().refusal();
    assert!(
        refusal.starts_with("--train-items must be at most 4000, the number of training images"),
        "{refusal}"
    );
    assert!(!out.exists());
}
