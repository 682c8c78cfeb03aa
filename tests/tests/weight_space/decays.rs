//! The decays of peers' moving averages.

use burn_swa_tests::comparison::Comparisons;
use burn_swa_tests::vectors;
use serde::Deserialize;

use super::FLOAT64;
use super::peers::{Peer, Settings, decay_of_karras_ema};

#[derive(Debug, Deserialize)]
struct Decays {
    rules: Vec<Decay>,
}

#[derive(Debug, Deserialize)]
struct Decay {
    peer: String,
    config: Settings,
    /// Some of the calls, counted from 1, and their decays: `None` if a call changes nothing.
    step: Vec<usize>,
    decay: Vec<Option<f64>>,
}

#[test]
fn weight_space_decays_are_those_of_peers() {
    let vectors: Decays = vectors::read_json("weight_space/ema_decays.json").unwrap();
    let mut comparisons = Comparisons::default();
    for Decay {
        peer,
        config,
        step,
        decay,
    } in &vectors.rules
    {
        let here = Peer::of(peer, config).unwrap();
        let rule = here.rule.init().unwrap();
        for (call, theirs) in step.iter().zip(decay) {
            let ours = if peer == "ema_pytorch.KarrasEMA" {
                decay_of_karras_ema(*call, config).unwrap()
            } else {
                let updates = here.updates_before(*call);
                updates.map(|updates| 1.0 - rule.weight(updates))
            };
            let deviation = match (ours, theirs) {
                (Some(ours), Some(theirs)) => (ours - theirs).abs(),
                (None, None) => 0.0,
                _ => f64::INFINITY,
            };
            comparisons.note(format!("{peer} {config:?} at {call}"), deviation, FLOAT64);
        }
    }
    println!("{}", comparisons.summary());
    comparisons.finish().unwrap();
}
