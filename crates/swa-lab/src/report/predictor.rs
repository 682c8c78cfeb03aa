//! The predictors that are compared: models that a method trains, as they predict.

use plotters::style::BLACK;

use super::line::{BLUE, GREEN, Line, Mark, ORANGE, PURPLE, Shape, VERMILION};
use super::results::FinishedRun;
use crate::experiment::record::{Method, PredictingModels as Models, PredictionsRecord};

/// Models that a method trains, as they predict.
#[derive(Debug)]
pub(crate) struct Predictor {
    /// Its line in pictures, which has its name.
    pub(crate) line: Line,
    pub(crate) method: Method,
    pub(crate) models: Models,
    /// True if its logits are divided by a temperature.
    pub(crate) tempered: bool,
}

/// The predictors, in the order of tables and pictures.
#[rustfmt::skip]
pub(crate) const PREDICTORS: [Predictor; 8] = [
    predictor(Method::Sgd, Models::Live, false, Line { name: "SGD", color: BLACK, width: 1.6, dashes: None, mark: closed(Shape::Circle) }),
    predictor(Method::Sgd, Models::Live, true, Line { name: "SGD with temperature", color: BLACK, width: 1.6, dashes: Some((6.0, 3.5)), mark: open(Shape::Circle) }),
    predictor(Method::Ema, Models::Averaged, false, Line { name: "EMA", color: GREEN, width: 1.6, dashes: Some((2.5, 2.5)), mark: closed(Shape::Tip) }),
    predictor(Method::Swa, Models::Averaged, false, Line { name: "SWA", color: VERMILION, width: 3.0, dashes: None, mark: closed(Shape::Square) }),
    predictor(Method::Snapshot, Models::Members, false, Line { name: "Snapshot", color: BLUE, width: 1.6, dashes: Some((11.0, 3.5)), mark: closed(Shape::Diamond) }),
    predictor(Method::Fge, Models::Members, false, Line { name: "FGE", color: PURPLE, width: 1.6, dashes: None, mark: closed(Shape::Triangle) }),
    predictor(Method::Swag, Models::Samples, false, Line { name: "SWAG", color: ORANGE, width: 1.6, dashes: None, mark: open(Shape::Square) }),
    predictor(Method::Swag, Models::DiagonalSamples, false, Line { name: "SWAG, diagonal", color: ORANGE, width: 1.6, dashes: Some((6.0, 3.5)), mark: open(Shape::Diamond) }),
];

const fn predictor(method: Method, models: Models, tempered: bool, line: Line) -> Predictor {
    Predictor {
        line,
        method,
        models,
        tempered,
    }
}

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
