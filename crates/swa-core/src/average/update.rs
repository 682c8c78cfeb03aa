//! One update of an average, parameter by parameter.

use burn::module::{Module, ModuleMapper, Param};
#[cfg(feature = "cubecl")]
use burn::tensor::Device;
use burn::tensor::{Bool, DType, FloatDType, Int, Tensor, kind::Basic};

use super::verdict::Accept;
#[cfg(feature = "cubecl")]
use crate::cube;
#[cfg(feature = "flex")]
use crate::flex;
use crate::parameter::{self, Parameter};

/// One update of every parameter of an average, in the order of `current`.
pub(super) struct Update {
    current: std::vec::IntoIter<Parameter>,
    weight: f64,
    accept: Option<Accept>,
    /// What `accept` says, on each device that was passed.
    #[cfg(feature = "cubecl")]
    accept_on: Vec<(Device, cube::OnCube)>,
    averages_running_statistics: bool,
    /// How many float parameters were passed.
    floats: usize,
    /// Steps of float parameters, with their place among these, that are taken all together afterwards.
    #[cfg(feature = "flex")]
    put_off: Vec<(usize, flex::Step)>,
}

impl Update {
    /// An update towards `current` by `weight`, of what `accept` does not leave out.
    pub(super) fn new(
        current: Vec<Parameter>,
        weight: f64,
        accept: Option<Accept>,
        averages_running_statistics: bool,
    ) -> Self {
        Self {
            current: current.into_iter(),
            weight,
            accept,
            #[cfg(feature = "cubecl")]
            accept_on: Vec::new(),
            averages_running_statistics,
            floats: 0,
            #[cfg(feature = "flex")]
            put_off: Vec::new(),
        }
    }

    /// `average`, updated.
    pub(super) fn of<M: Module>(mut self, average: M) -> M {
        let averaged = average.map(&mut self);
        #[cfg(feature = "flex")]
        let averaged = self.take_what_was_put_off(averaged);
        averaged
    }

    /// Takes the steps that were put off in a traversal of `averaged`, in which other values hold their places.
    #[cfg(feature = "flex")]
    fn take_what_was_put_off<M: Module>(self, averaged: M) -> M {
        if self.put_off.is_empty() {
            return averaged;
        }
        let (places, mut steps): (Vec<usize>, Vec<flex::Step>) = self.put_off.into_iter().unzip();
        flex::take_steps(&mut steps, self.weight);
        averaged.map(&mut PutBack {
            averages: places.into_iter().zip(steps).peekable(),
            floats: 0,
        })
    }

    fn next(&mut self) -> Parameter {
        self.current
            .next()
            .expect("the numbers of parameters were compared before")
    }

    /// `new` where the weights are fit to be averaged, else `old`.
    fn accepted<const D: usize, K: Basic>(
        &self,
        old: Tensor<D, K>,
        new: Tensor<D, K>,
    ) -> Tensor<D, K> {
        match &self.accept {
            None => new,
            Some(accept) => {
                let mask = accept.mask.clone().to_device(&new.device());
                let mask = mask.reshape([1; D]).expand(new.shape());
                old.mask_where(mask, new)
            }
        }
    }

    /// The step from `average` towards `current` that one kernel takes, if they are where such kernels run.
    #[cfg(feature = "cubecl")]
    fn step_on_cube<const D: usize>(
        &mut self,
        average: &Tensor<D>,
        current: &Tensor<D>,
    ) -> Option<cube::Step> {
        let device = average.device();
        Some(cube::Step {
            average: cube::OnCube::of(average).filter(|_| average.dtype() == DType::F32)?,
            current: cube::OnCube::of(current)?,
            accept: self.accept_on(&device)?,
        })
    }

    #[cfg(feature = "cubecl")]
    fn accept_on(&mut self, device: &Device) -> Option<cube::OnCube> {
        let known = self.accept_on.iter().find(|(of, _)| of == device);
        if let Some((_, accept)) = known {
            return Some(accept.clone());
        }
        let accept = match &self.accept {
            Some(accept) => accept.ok.clone().to_device(device),
            None => Tensor::ones([1], (device, DType::F32)),
        };
        let accept = cube::OnCube::of(&accept)?;
        self.accept_on.push((device.clone(), accept.clone()));
        Some(accept)
    }
}

impl ModuleMapper for Update {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let current = self.next();
        let averaged = current
            .description
            .role
            .is_averaged(self.averages_running_statistics);
        let current: Tensor<D> = current.into_value();
        self.floats += 1;
        param.map(|average| {
            if !averaged {
                return self.accepted(moved(average, &current), current);
            }
            // A record may have brought another dtype than the accumulator's.
            let dtype = match average.dtype() {
                DType::F64 => FloatDType::F64,
                _ => parameter::accumulator_dtype(current.dtype()),
            };
            let average = parameter::cast(moved(average, &current), dtype);
            #[cfg(feature = "cubecl")]
            if self.weight != 1.0
                && let Some(step) = self.step_on_cube(&average, &current)
            {
                // From here on the step's is the only handle on the average, so that it is taken in place.
                drop(average);
                return step.take(self.weight).into_tensor();
            }
            let current = parameter::cast(current, dtype);
            if self.weight == 1.0 {
                return self.accepted(average, current);
            }
            #[cfg(feature = "flex")]
            if self.accept.is_none()
                && let (Some(plain), Some(towards)) =
                    (flex::Plain::of(&average), flex::Plain::of(&current))
            {
                // From here on the step's is the only handle on the average, so that it is taken in place.
                let step = flex::Step {
                    average: plain,
                    current: towards,
                };
                self.put_off.push((self.floats - 1, step));
                return current;
            }
            // The only handle on the average is gone with the last line, so that a backend which can
            // adds in place.
            let step = current.sub(average.clone()).mul_scalar(self.weight);
            match self.accept.is_none() {
                true => average.add(step),
                false => self.accepted(average.clone(), average.add(step)),
            }
        })
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let current = self.next().into_value();
        param.map(|latest| self.accepted(moved(latest, &current), current))
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        let current = self.next().into_value();
        param.map(|latest| self.accepted(moved(latest, &current), current))
    }
}

/// Puts averages into their places, in the order of the traversal.
#[cfg(feature = "flex")]
struct PutBack<I: Iterator<Item = (usize, flex::Step)>> {
    averages: std::iter::Peekable<I>,
    /// How many float parameters were passed.
    floats: usize,
}

#[cfg(feature = "flex")]
impl<I: Iterator<Item = (usize, flex::Step)>> ModuleMapper for PutBack<I> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let place = self.floats;
        self.floats += 1;
        match self.averages.next_if(|(of, _)| *of == place) {
            Some((_, step)) => param.map(|_| step.average.into_tensor()),
            None => param,
        }
    }
}

/// `average` on the device of `current`, which it follows.
fn moved<const D: usize, K: Basic>(average: Tensor<D, K>, current: &Tensor<D, K>) -> Tensor<D, K> {
    let device = current.device();
    match average.device() == device {
        true => average,
        false => average.to_device(&device),
    }
}
