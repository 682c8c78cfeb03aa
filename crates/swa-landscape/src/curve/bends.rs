//! The bends of a curve, as modules with parameters of their own.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Bool, Int, Tensor};

/// The module with a new id for each parameter. Otherwise, a gradient of one bend would be every other's too, and the network's.
pub(super) fn with_fresh_ids<M: Module>(module: M) -> M {
    struct FreshIds;
    impl ModuleMapper for FreshIds {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (_, tensor, mapper) = param.consume();
            Param::from_mapped_value(ParamId::new(), tensor, mapper)
        }
        fn map_int<const D: usize>(
            &mut self,
            param: Param<Tensor<D, Int>>,
        ) -> Param<Tensor<D, Int>> {
            let (_, tensor, mapper) = param.consume();
            Param::from_mapped_value(ParamId::new(), tensor, mapper)
        }
        fn map_bool<const D: usize>(
            &mut self,
            param: Param<Tensor<D, Bool>>,
        ) -> Param<Tensor<D, Bool>> {
            let (_, tensor, mapper) = param.consume();
            Param::from_mapped_value(ParamId::new(), tensor, mapper)
        }
    }
    module.map(&mut FreshIds)
}

/// The ids of a module's float parameters, in the order of their traversal.
fn ids<M: Module>(module: &M) -> Vec<ParamId> {
    struct Ids(Vec<ParamId>);
    impl ModuleVisitor for Ids {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.id);
        }
    }
    let mut ids = Ids(Vec::new());
    module.visit(&mut ids);
    ids.0
}

/// The gradients of bends, from those `g` of the loss at a point `w` of the curve: `c_k (g + weight_decay w)`, where `c_k` is the
/// coefficient of bend `k`. A bend without a part in the point gets zeros, and not nothing, so that its momentum goes on as in PyTorch.
pub(super) fn gradients_of_bends<M: Module>(
    bends: &[M],
    coefficients: &[f64],
    point: &M,
    gradients: GradientsParams,
    weight_decay: f64,
) -> GradientsParams {
    struct Spread<'a> {
        coefficients: &'a [f64],
        /// The ids of each bend's parameters.
        ids: Vec<Vec<ParamId>>,
        weight_decay: f64,
        at_point: GradientsParams,
        /// The number of float parameters that were visited.
        visited: usize,
        of_bends: GradientsParams,
    }
    impl ModuleVisitor for Spread<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let place = self.visited;
            self.visited += 1;
            let Some(gradient) = self.at_point.remove::<D>(param.id) else {
                return;
            };
            let gradient = if self.weight_decay > 0.0 {
                let weights = param.val().inner().to_device(&gradient.device());
                gradient.add(weights.mul_scalar(self.weight_decay))
            } else {
                gradient
            };
            for (coefficient, ids) in self.coefficients.iter().zip(&self.ids) {
                let gradient = gradient.clone().mul_scalar(*coefficient);
                self.of_bends.register(ids[place], gradient);
            }
        }
    }
    let mut spread = Spread {
        coefficients,
        ids: bends.iter().map(ids).collect(),
        weight_decay,
        at_point: gradients,
        visited: 0,
        of_bends: GradientsParams::new(),
    };
    point.visit(&mut spread);
    spread.of_bends
}
