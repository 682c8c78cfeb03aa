//! The shape of a curve.

use burn::config::Config;

/// A shape of curves through weight space, by the coefficients of its `n` points `p_0` to `p_(n-1)`, the ends among them:
/// `w(t) = sum over k of c_k(t) p_k`, for `t` from 0 to 1.
///
/// Source: Garipov et al. 2018, *Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs*, sec. 3.2, and its code's `curves.py`.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum CurveShape {
    /// A Bezier curve: `c_k = C(n-1, k) t^k (1-t)^(n-1-k)`. With one bend, the paper's quadratic curve.
    Bezier,
    /// A polygonal chain, which passes the points one after the other: `c_k = max(0, 1 - |t (n-1) - k|)`.
    PolygonalChain,
}

impl CurveShape {
    /// Its number in records.
    pub(super) fn number(self) -> usize {
        match self {
            Self::Bezier => 0,
            Self::PolygonalChain => 1,
        }
    }

    /// The coefficients at `t` of a curve with this number of points, both ends among them. Their sum is 1.
    pub fn coefficients(self, t: f64, points: usize) -> Vec<f64> {
        let degree = points.saturating_sub(1);
        match self {
            Self::Bezier => {
                let mut binomial = 1.0;
                let coefficients = (0..points).map(|k| {
                    let power = |base: f64, exponent: usize| base.powf(exponent as f64);
                    let coefficient = binomial * power(t, k) * power(1.0 - t, degree - k);
                    binomial = binomial * (degree - k) as f64 / (k + 1) as f64;
                    coefficient
                });
                coefficients.collect()
            }
            Self::PolygonalChain => {
                let place = t * degree as f64;
                let coefficients = (0..points).map(|k| (1.0 - (place - k as f64).abs()).max(0.0));
                coefficients.collect()
            }
        }
    }
}
