//! Metrics of the live model beside those of the averaged one.

use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn::train::ItemLazy;
use burn::train::metric::{
    AccuracyInput, Adaptor, BleuInput, CerInput, ConfusionStatsInput, HammingScoreInput, LossInput,
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericEntry, PerplexityInput,
    RougeLInput, SerializedEntry, TopKAccuracyInput, WerInput,
};

/// What both models make of a validation item: the output of
/// [`Swa::with_live_metrics`](crate::Swa::with_live_metrics).
///
/// Burn's metrics of classification and text take the averaged model's output (the live one's, while nothing has
/// been averaged), and [`Live`] metrics the live one's. For a metric input of your own, implement
/// `Adaptor<YourInput> for LiveAndAveraged<YourOutput>` by adapting [`evaluated`](Self::evaluated). Image metrics of
/// `burn-train` (its feature `vision`) take the live model's output only, or without live metrics the averaged one's.
#[derive(Debug)]
pub struct LiveAndAveraged<O> {
    /// The live model's output.
    pub live: O,
    /// The averaged model's output, once there is one.
    pub averaged: Option<O>,
}

impl<O> LiveAndAveraged<O> {
    /// The output that validation goes by: the averaged model's, or the live one's while nothing has
    /// been averaged.
    pub fn evaluated(&self) -> &O {
        self.averaged.as_ref().unwrap_or(&self.live)
    }
}

impl<O: ItemLazy> ItemLazy for LiveAndAveraged<O> {
    fn sync(self) -> Result<Self, burn::tensor::ExecutionError> {
        Ok(Self {
            live: self.live.sync()?,
            averaged: self.averaged.map(ItemLazy::sync).transpose()?,
        })
    }
}

/// A metric of the live model: the input of `M`, made from [`LiveAndAveraged::live`].
pub struct LiveInput<T>(T);

impl<T, O: Adaptor<T>> Adaptor<LiveInput<T>> for LiveAndAveraged<O> {
    fn adapt(&self) -> LiveInput<T> {
        LiveInput(self.live.adapt())
    }
}

/// Not a blanket implementation, which would overlap with that for [`LiveInput`].
macro_rules! adapt_evaluated {
    ($($input:ty),* $(,)?) => {$(
        impl<O: Adaptor<$input>> Adaptor<$input> for LiveAndAveraged<O> {
            fn adapt(&self) -> $input {
                self.evaluated().adapt()
            }
        }
    )*};
}

adapt_evaluated!(
    AccuracyInput,
    BleuInput,
    CerInput,
    ConfusionStatsInput,
    HammingScoreInput,
    LossInput,
    PerplexityInput,
    RougeLInput,
    TopKAccuracyInput,
    WerInput,
);

/// The metric `Me` of the live model, under its name with " (live)" behind it.
///
/// ```
/// use burn::train::metric::{AccuracyMetric, Metric};
/// use swa_train::Live;
///
/// assert_eq!(*Live::new(AccuracyMetric::new()).name(), "Accuracy (live)");
/// ```
#[derive(Debug, Clone)]
pub struct Live<Me> {
    metric: Me,
    name: MetricName,
}

impl<Me: Metric> Live<Me> {
    /// `metric`, of the live model.
    pub fn new(metric: Me) -> Self {
        let name = Arc::new(format!("{} (live)", metric.name()));
        Self { metric, name }
    }
}

impl<Me: Metric> Metric for Live<Me> {
    type Input = LiveInput<Me::Input>;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn description(&self) -> Option<String> {
        self.metric.description()
    }

    fn attributes(&self) -> MetricAttributes {
        self.metric.attributes()
    }

    fn update(
        &mut self,
        item: &Self::Input,
        metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        self.metric.update(&item.0, metadata)
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        self.metric.compute()
    }

    fn clear(&mut self) {
        self.metric.clear();
    }
}

impl<Me: Numeric> Numeric for Live<Me> {
    fn value(&self) -> Option<NumericEntry> {
        self.metric.value()
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.metric.running_value()
    }

    fn final_value(&self) -> NumericEntry {
        self.metric.final_value()
    }
}
