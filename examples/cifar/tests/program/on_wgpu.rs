//! The program on an accelerator: wgpu, for which Mesa's software Vulkan is enough.

use std::path::Path;

use crate::data_folder::write_image_folder;
use crate::end_state::{Checkpoint, EndState};
use crate::process::cifar;
use crate::small_run::{has_logged, train};

/// Starts a training of three epochs of three steps, averaged from the second on.
fn start(data: &Path, out: &Path) -> crate::process::Process {
    let settings = "--device wgpu --model preresnet-8 --width-divisor 8 \
                    --batch-size 8 --epochs 3 --swa-start 2 --data";
    let mut settings: Vec<&str> = settings.split_whitespace().collect();
    settings.push(data.to_str().unwrap());
    train(&settings, out)
}

#[test]
fn a_run_on_wgpu_killed_and_resumed_ends_as_if_not_killed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_image_folder(&data, &["cat", "dog"], 10);
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));

    let output = start(&data, &whole).end().success();
    assert!(output.contains("averaged"), "{output}");

    let mut process = start(&data, &killed);
    assert!(process.runs_until(|| has_logged(&killed, 2)));
    process.signal("KILL");
    assert_eq!(process.end().status, None);
    let output = train(&["--resume", "--device", "wgpu"], &killed)
        .end()
        .success();
    assert!(output.contains("\nGoing on after epoch "), "{output}");

    for out in [&whole, &killed] {
        let checkpoint = Checkpoint::read(out, "3");
        let counts =
            ["swa_train.steps", "swa_train.average.updates"].map(|name| checkpoint.integer(name));
        assert_eq!(counts, [9, 2]);
    }
    let uninterrupted = EndState::after_epoch(&whole, 3);
    EndState::after_epoch(&killed, 3).assert_same_bits(&uninterrupted, &[]);

    let model = killed.join("averaged.safetensors");
    let evaluate = ["evaluate", "--device", "wgpu", "--model-file"];
    let arguments = evaluate.map(std::ffi::OsStr::new).into_iter();
    let arguments = arguments.chain([model.as_os_str(), "--data".as_ref(), data.as_os_str()]);
    let output = cifar(arguments).success();
    assert!(output.contains("accuracy"), "{output}");
}
