//! A run and a model of an earlier version: `tests/earlier_version/README.md` of the repository says which.

use std::path::Path;

use safetensors::SafeTensors;

use crate::end_state::{Checkpoint, Metrics};
use crate::process::cifar;
use crate::small_run::resume;
use crate::snapshot::Snapshot;

fn files() -> Snapshot {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Snapshot::of(&repository.join("tests/earlier_version"))
}

#[test]
fn a_run_of_an_earlier_version_is_trained_on() {
    let earlier = files();
    let folder = tempfile::tempdir().unwrap();
    earlier.write_to(folder.path());
    let out = folder.path().join("run");
    let epochs_before = Metrics::read(&out).rows;

    let output = resume(&out).end().success();
    let expected = "\nGoing on in epoch 6 after 1 of 7 batches.\n";
    assert!(output.contains(expected), "{output}");
    assert!(output.contains("SWA, 4 averaged"), "{output}");

    let epochs = Metrics::read(&out).rows;
    assert_eq!(epochs[..5], epochs_before);
    assert_eq!(epochs.len(), 6);
    let checkpoint = Checkpoint::read(&out, "6");
    assert_eq!(checkpoint.integer("swa_train.average.updates"), 4);
    assert_eq!(checkpoint.integer("swa_train.steps"), 42);
    assert_eq!(checkpoint.integer("swa_train.format"), 3);

    // The results of the earlier version, up to the rounding of another processor.
    let now = Snapshot::of(&out);
    let models = [&earlier, &now].map(|it| &it.files[Path::new("averaged.safetensors")]);
    let [earlier, now] = models.map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    assert_eq!(earlier.len(), now.len());
    for (name, tensor) in earlier.tensors() {
        let pairs = floats(tensor.data()).zip(floats(now.tensor(&name).unwrap().data()));
        for (earlier, now) in pairs {
            let difference = (earlier - now).abs();
            assert!(
                difference <= 1e-3 * (1.0 + earlier.abs()),
                "{name}: {earlier} and {now}"
            );
        }
    }
}

#[test]
fn a_model_of_an_earlier_version_is_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    files().write_to(folder.path());
    let file = folder.path().join("averaged.safetensors");
    let output = cifar(["evaluate", "--model-file", file.to_str().unwrap()]).success();
    let all = output.lines().last().unwrap();
    assert!(all.starts_with("all           2000   2.28"), "{output}");
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let values = bytes.chunks_exact(4);
    values.map(|value| f32::from_le_bytes(value.try_into().unwrap()))
}
