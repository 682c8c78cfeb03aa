//! Runs that go on where something has changed: their images, their folder, their length.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::data_folder::write_image_folder;
use crate::end_state::{EndState, Metrics};
use crate::process::{CIFAR, Process, cifar};
use crate::small_run::{SmallRun, has_checkpoint, has_logged, resume, train};
use crate::snapshot::Snapshot;

/// A folder of images and a run on them: two epochs, of which the second was averaged.
struct OnFolder {
    folder: tempfile::TempDir,
}

impl OnFolder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run = Self { folder };
        write_image_folder(&run.data(), &["cat", "dog"], 16);
        let data = run.data();
        let settings = format!(
            "--model preresnet-8 --width-divisor 16 --batch-size 8 --epochs 2 --data {}",
            data.display()
        );
        let settings: Vec<&str> = settings.split(' ').collect();
        train(&settings, &run.out()).end().success();
        run
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Adds eight images to train on.
    fn add_images(&self) {
        let cats = self.data().join("train/cat");
        for index in 0..8 {
            fs::copy(cats.join("0.png"), cats.join(format!("more{index}.png"))).unwrap();
        }
    }

    /// The message when the run is to go on, after which its folder is as it was.
    fn refusal(&self, settings: &[&str]) -> String {
        let before = Snapshot::of(&self.out());
        let settings = [&["--resume"], settings].concat();
        let refusal = train(&settings, &self.out()).end().refusal();
        assert!(Snapshot::of(&self.out()) == before);
        assert!(!refusal.contains("elete"), "{refusal}");
        refusal
    }
}

#[test]
fn a_run_whose_images_changed_is_refused_and_stays_whole() {
    let run = OnFolder::new();
    let images = Snapshot::of(&run.data());
    let restored = || {
        fs::remove_dir_all(run.data()).unwrap();
        images.write_to(&run.data());
    };
    let image = run.data().join("train/cat/0.png");

    run.add_images();
    let refusal = run.refusal(&[]);
    let more = "there are 40 images to train on, and there were 32";
    assert!(
        refusal.contains(more) && refusal.contains("--data"),
        "{refusal}"
    );
    restored();

    write_image_folder(&run.data(), &["cow"], 16);
    let refusal = run.refusal(&[]);
    assert!(refusal.contains("the class `cow` is new"), "{refusal}");
    restored();

    fs::copy(&image, run.data().join("test/dog/0.png")).unwrap();
    let refusal = run.refusal(&[]);
    assert!(refusal.contains("as many, with other pixels"), "{refusal}");
    restored();

    resume(&run.out()).end().success();
}

#[test]
fn a_run_of_before_its_images_were_recorded_is_not_called_damaged() {
    let run = OnFolder::new();
    fs::remove_file(run.out().join("images.json")).unwrap();
    let out = run.out();
    let checkpoints = Snapshot::of(&out.join("checkpoint"));
    run.add_images();
    let refusal = resume(&out).end().refusal();
    assert!(refusal.contains("written after 8 steps"), "{refusal}");
    assert!(refusal.contains("it would have been 10"), "{refusal}");
    assert!(!refusal.contains("elete"), "{refusal}");
    assert!(Snapshot::of(&out.join("checkpoint")) == checkpoints);
    assert!(!out.join("images.json").exists());

    // Other images that are refused are not those that the run goes on with.
    let others = run.folder.path().join("others");
    write_image_folder(&others, &["cat", "dog"], 20);
    let settings = ["--resume", "--epochs", "3", "--data"];
    let settings = [&settings[..], &[others.to_str().unwrap()]].concat();
    let refusal = train(&settings, &out).end().refusal();
    assert!(refusal.contains("written after 8 steps"), "{refusal}");
    for index in 0..8 {
        fs::remove_file(run.data().join(format!("train/cat/more{index}.png"))).unwrap();
    }
    let output = resume(&out).end().success();
    assert!(output.contains("\n2 epochs of SGD"), "{output}");
    assert!(out.join("images.json").exists());
}

#[test]
fn images_that_moved_are_gone_on_with_if_they_are_the_same() {
    let run = OnFolder::new();
    let moved = run.folder.path().join("moved here");
    fs::rename(run.data(), &moved).unwrap();
    let refusal = run.refusal(&[]);
    assert!(refusal.contains("data: no such folder"), "{refusal}");

    let data = moved.to_str().unwrap();
    train(&["--resume", "--data", data], &run.out())
        .end()
        .success();
    // Now it is known where they are.
    resume(&run.out()).end().success();

    let others = run.folder.path().join("others");
    write_image_folder(&others, &["cat", "dog"], 15);
    let refusal = run.refusal(&["--data", others.to_str().unwrap()]);
    assert!(refusal.contains("30 images to train on"), "{refusal}");
}

#[test]
fn fewer_images_than_a_run_began_with_are_others() {
    let folder = tempfile::tempdir().unwrap();
    let [data, out] = ["data", "run"].map(|name| folder.path().join(name));
    write_image_folder(&data, &["cat", "dog"], 8);
    let settings = format!(
        "--model preresnet-8 --width-divisor 16 --batch-size 8 --epochs 1 --train-items 16 --data {}",
        data.display()
    );
    let settings: Vec<&str> = settings.split(' ').collect();
    train(&settings, &out).end().success();
    fs::remove_file(data.join("train/cat/0.png")).unwrap();
    let refusal = resume(&out).end().refusal();
    let expected = "was begun with other images: --train-items must be at most 15, the number of \
                    training images, not 16. Say with --data where those";
    assert!(refusal.contains(expected), "{refusal}");
}

#[test]
fn settings_with_a_mark_or_an_unknown_key_lose_nothing() {
    let run = OnFolder::new();
    let file = run.out().join("config.json");
    let settings = fs::read_to_string(&file).unwrap();

    fs::write(&file, format!("\u{feff}{settings}")).unwrap();
    resume(&run.out()).end().success();

    for (changed, reason) in [
        (
            settings.replacen('{', "{\"speed\": 3,", 1),
            "unknown field `speed`",
        ),
        (settings.replacen('{', "", 1), "line 2"),
    ] {
        fs::write(&file, changed).unwrap();
        let refusal = run.refusal(&[]);
        assert!(refusal.contains(reason), "{refusal}");
        assert!(refusal.contains("config.json"), "{refusal}");
        assert!(!refusal.contains("--overwrite"), "{refusal}");
    }
}

#[test]
#[cfg(unix)]
fn the_printed_command_goes_on_in_a_folder_with_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("it's my \"first\" run; $HOME & co");
    let mut process = SmallRun::PreResNet.start(&out);
    assert!(process.runs_until(|| has_logged(&out, 1)));
    process.signal("INT");
    let stopped = process.end().output;
    let (_, command) = stopped.trim_end().rsplit_once("\n  ").unwrap();
    let (cifar, arguments) = command.split_once(' ').unwrap();
    assert_eq!(cifar, "cifar");

    let command = format!("'{CIFAR}' {arguments}");
    Process::start(Command::new("sh").args(["-c", &command]))
        .end()
        .success();
    let uninterrupted = &SmallRun::PreResNet.uninterrupted().end;
    let epochs: Vec<usize> = (1..=6).collect();
    EndState::of(&out).assert_same_bits(uninterrupted, &epochs);
}

#[test]
fn two_processes_never_write_to_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut first = SmallRun::PreResNet.start(&out);
    assert!(first.runs_until(|| has_logged(&out, 1)));
    // Stopped, it stays there for as long as the others take.
    first.signal("STOP");
    let overwrite = [SmallRun::Vgg.settings(), vec!["--overwrite"]].concat();
    let second = train(&overwrite, &out);
    let third = resume(&out);
    for refused in [second, third] {
        let refusal = refused.end().refusal();
        assert!(
            refusal.contains("another process is writing there"),
            "{refusal}"
        );
        assert!(refusal.contains(out.to_str().unwrap()), "{refusal}");
    }
    first.signal("CONT");
    first.end().success();
    let uninterrupted = &SmallRun::PreResNet.uninterrupted().end;
    EndState::of(&out).assert_same_bits(uninterrupted, &[]);
}

#[test]
fn a_run_whose_folder_was_replaced_stops_and_harms_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let moved = folder.path().join("moved");
    let mut first = SmallRun::PreResNet.start(&out);
    assert!(first.runs_until(|| has_checkpoint(&out, 2)));
    first.signal("STOP");
    fs::rename(&out, &moved).unwrap();
    let left = Snapshot::of(&moved);
    SmallRun::Vgg.start(&out).end().success();
    let second = Snapshot::of(&out);

    first.signal("CONT");
    let ended = first.end();
    assert_eq!(ended.status, Some(1), "{ended:?}");
    let expected = format!(
        "error: {} was deleted, moved or replaced while",
        out.display()
    );
    assert!(ended.errors.starts_with(&expected), "{ended:?}");
    assert!(Snapshot::of(&out) == second);
    let mut after = Snapshot::of(&moved);
    let log = Path::new("experiment.log");
    // It is open all the time.
    after.files.insert(log.to_owned(), left.files[log].clone());
    assert!(after == left);

    resume(&moved).end().success();
    let uninterrupted = &SmallRun::PreResNet.uninterrupted().end;
    EndState::of(&moved).assert_same_bits(uninterrupted, &[]);
}

#[test]
fn a_run_whose_folder_was_deleted_does_not_make_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut process = SmallRun::PreResNet.start(&out);
    assert!(process.runs_until(|| has_checkpoint(&out, 2)));
    process.signal("STOP");
    fs::remove_dir_all(&out).unwrap();
    process.signal("CONT");
    let ended = process.end();
    let expected = format!(
        "error: {} was deleted, moved or replaced while",
        out.display()
    );
    assert!(ended.errors.starts_with(&expected), "{ended:?}");
    assert!(!out.exists());
}

/// A run of `epochs`, which was begun with `begun` of them.
fn lengthened(settings: &str, begun: usize, epochs: usize, out: &Path) -> String {
    let settings = format!(
        "--model preresnet-8 --width-divisor 16 --train-items 200 --batch-size 32 {settings}"
    );
    let begun = format!("{settings} --epochs {begun}");
    train(&begun.split(' ').collect::<Vec<_>>(), out)
        .end()
        .success();
    let epochs = epochs.to_string();
    train(&["--resume", "--epochs", &epochs], out)
        .end()
        .success()
}

#[test]
fn a_run_made_longer_is_the_run_of_that_length() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("longer");
    let output = lengthened("--swa-start 3", 4, 6, &out);
    assert!(
        output.contains("The run now has 6 epochs, not 4."),
        "{output}"
    );
    assert!(output.contains("learning rate stays at 0.01."), "{output}");
    let uninterrupted = &SmallRun::PreResNet.uninterrupted().end;
    EndState::of(&out).assert_same_bits(uninterrupted, &[]);
    assert_eq!(Metrics::read(&out).rows.len(), 6);

    // Its settings say so from now on.
    let output = resume(&out).end().success();
    assert!(!output.contains("now has"), "{output}");
    let fewer = train(&["--resume", "--epochs", "5"], &out).end().refusal();
    assert!(fewer.starts_with("--epochs must be at least 6"), "{fewer}");
}

#[test]
fn plain_sgd_whose_rate_has_fallen_is_not_made_longer() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "--model preresnet-8 --width-divisor 16 --train-items 64 --no-swa --epochs 3";
    let settings: Vec<&str> = settings.split(' ').collect();
    train(&settings, folder.path()).end().success();
    let before = Snapshot::of(folder.path());
    let longer = train(&["--resume", "--epochs", "6"], folder.path());
    let refusal = longer.end().refusal();
    assert!(refusal.contains("--epochs cannot be 6"), "{refusal}");
    assert!(Snapshot::of(folder.path()) == before);
}

#[test]
fn holding_out_every_image_is_refused_by_its_flag() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let settings = [
        "train",
        "--train-items",
        "200",
        "--validation-items",
        "200",
        "--out",
    ];
    let refusal = cifar(settings.map(Path::new).into_iter().chain([out.as_path()])).refusal();
    assert!(
        refusal.starts_with("--validation-items must be at most 199"),
        "{refusal}"
    );
    assert!(!out.exists());
}
