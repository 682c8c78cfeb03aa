//! The predictors that are compared: models that a method trains, as they predict.

use plotters::style::BLACK;

use super::line::{BLUE, GREEN, Line, Mark, ORANGE, PURPLE, Shape, VERMILION};
use super::results::FinishedRun;
use crate::experiment::record::{Method, PredictingModels, PredictionsRecord};

/// Models that a method trains, as they predict.
#[derive(Debug)]
pub(crate) struct Predictor {
    /// Its line in pictures, which has its name.
    pub(crate) line: Line,
    pub(crate) method: Method,
    pub(crate) models: PredictingModels,
    /// True if its logits are divided by a temperature.
    pub(crate) tempered: bool,
}

/// The predictors, in the order of tables and pictures.
pub(crate) const PREDICTORS: [Predictor; 8] = [
    Predictor {
        line: Line {
            name: "SGD",
            color: BLACK,
            width: 1.6,
            dashes: None,
            mark: closed(Shape::Circle),
        },
        method: Method::Sgd,
        models: PredictingModels::Live,
        tempered: false,
    },
    Predictor {
        line: Line {
            name: "SGD with temperature",
            color: BLACK,
            width: 1.6,
            dashes: Some((6.0, 3.5)),
            mark: open(Shape::Circle),
        },
        method: Method::Sgd,
        models: PredictingModels::Live,
        tempered: true,
    },
    Predictor {
        line: Line {
            name: "EMA",
            color: GREEN,
            width: 1.6,
            dashes: Some((2.5, 2.5)),
            mark: closed(Shape::Tip),
        },
        method: Method::Ema,
        models: PredictingModels::Averaged,
        tempered: false,
    },
    Predictor {
        line: Line {
            name: "SWA",
            color: VERMILION,
            width: 3.0,
            dashes: None,
            mark: closed(Shape::Square),
        },
        method: Method::Swa,
        models: PredictingModels::Averaged,
        tempered: false,
    },
    Predictor {
        line: Line {
            name: "Snapshot",
            color: BLUE,
            width: 1.6,
            dashes: Some((11.0, 3.5)),
            mark: closed(Shape::Diamond),
        },
        method: Method::Snapshot,
        models: PredictingModels::Members,
        tempered: false,
    },
    Predictor {
        line: Line {
            name: "FGE",
            color: PURPLE,
            width: 1.6,
            dashes: None,
            mark: closed(Shape::Triangle),
        },
        method: Method::Fge,
        models: PredictingModels::Members,
        tempered: false,
    },
    Predictor {
        line: Line {
            name: "SWAG",
            color: ORANGE,
            width: 1.6,
            dashes: None,
            mark: open(Shape::Square),
        },
        method: Method::Swag,
        models: PredictingModels::Samples,
        tempered: false,
    },
    Predictor {
        line: Line {
            name: "SWAG, diagonal",
            color: ORANGE,
            width: 1.6,
            dashes: Some((6.0, 3.5)),
            mark: open(Shape::Diamond),
        },
        method: Method::Swag,
        models: PredictingModels::DiagonalSamples,
        tempered: false,
    },
];

const fn closed(shape: Shape) -> Option<Mark> {
    Some(Mark { shape, open: false })
}

const fn open(shape: Shape) -> Option<Mark> {
    Some(Mark { shape, open: true })
}

impl Predictor {
    /// Its predictions in a run of its method, if they are there and have a member.
    pub(crate) fn of<'a>(&self, run: &'a FinishedRun) -> Option<&'a PredictionsRecord> {
        run.predictions.iter().find(|predictions| {
            predictions.models == self.models
                && predictions.temperature.is_some() == self.tempered
                && !predictions.members.is_empty()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lines_look_the_same_without_colour() {
        for (index, a) in PREDICTORS.iter().enumerate() {
            for b in &PREDICTORS[index + 1..] {
                assert_ne!(a.line.mark, b.line.mark, "{a:?}, {b:?}");
                assert_ne!(a.line.name, b.line.name);
            }
        }
    }
}
