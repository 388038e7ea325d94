//! Split convolutions in four: a projection of the inputs, a depthwise convolution for each axis of the window, a map to the outputs (CP).
//!
//! Before     y = Conv <strides, pads> (x, w, b)                                       w is 256 x 256 x 3 x 3
//! After      h = Conv (x, v);  k = Conv <group = 200, …> (h, k0);  l = Conv <group = 200, …> (k, k1);  y = Conv (l, w', b)
//!            v is 200 x 256 x 1 x 1, k0 is 200 x 1 x 3 x 1, k1 is 200 x 1 x 1 x 3, w' is 256 x 200 x 1 x 1
//! When       convolutions of the main graph, along any number of axes, strided, dilated and in groups, with constant weights, whose
//!            factors are faster by the cost model
//! Refuses    depthwise convolutions · windows of one place (`low-rank` splits them) · weights that are quantized already, or that a
//!            subgraph reads · ranks by `evbmf`, which a CP decomposition has no spectrum for
//! Numerics   Lossy: the report gives the error of each layer, and with calibration data that of the model's outputs on samples that the
//!            fit has not seen
//! Reference  Lebedev et al.: Speeding-up convolutional neural networks using fine-tuned CP-decomposition, ICLR 2015
//!
//! With calibration data the inputs are whitened by their second moments before the decomposition, and the map to the outputs is fitted by
//! least squares; not for convolutions in groups, which are split by their weights.

use std::{collections::BTreeMap, ops::Range};

use super::{
    als::{self, Cp as Terms},
    blocks::Blocks,
    convolution::{Convolution, Filled, Stage},
    method::{Choice, Cost, Decomposed, Known, Layer, Method, Place, Reads, Scene, times, total},
    projection::row_major,
    rank::{Own, Rule, Spectrum, thinned},
};
use crate::Skip;
use faer::Mat;
use planish_ir::{NodeId, Patch, ValueId};
use rayon::prelude::*;

/// Ranks that are tried for a budget, or for an energy.
const RANKS: usize = 6;

splitting_pass!(Cp, Products);

/// Sums of products of one factor for each mode.
pub(super) struct Products;

/// A convolution that is split into such a sum.
struct Sum<'a> {
    convolution: Convolution<'a>,
    /// Spatial axes of each depthwise convolution: one with a window, and others without.
    runs: Vec<Range<usize>>,
}

impl Method for Products {
    fn layer<'a>(&self, scene: &Scene<'a>, weight: ValueId, nodes: &[NodeId]) -> Result<Box<dyn Layer + 'a>, Skip> {
        let convolution = Convolution::of(scene, weight, nodes)?;
        if convolution.taps() == 1 {
            return Err(Skip::because("its window is of one place; `low-rank` splits it"));
        }
        if scene.rule == Rule::Own(Own::Evbmf) {
            return Err(Skip::because(
                "a CP decomposition has no spectrum for `evbmf`; give a rank, a ratio, an energy or a budget",
            ));
        }
        let windows: Vec<usize> =
            (0..convolution.window.len()).filter(|&a| convolution.window.get(a) != Some(&1)).collect();
        let ends = windows.iter().skip(1).copied().chain([convolution.window.len()]);
        let starts = std::iter::once(0).chain(windows.iter().skip(1).copied());
        let runs = starts.zip(ends).map(|(start, end)| start..end).collect();
        Ok(Box::new(Sum { convolution, runs }))
    }
}

impl Sum<'_> {
    /// Sizes of the windows of the depthwise convolutions.
    fn window(&self) -> Vec<usize> {
        let size = |r: &Range<usize>| self.convolution.window.get(r.clone()).map_or(1, |w| w.iter().product());
        self.runs.iter().map(size).collect()
    }

    fn stages(&self, rank: usize) -> Vec<Stage> {
        let c = &self.convolution;
        let (groups, all) = (c.groups, rank * c.groups);
        let mut stages = vec![Stage { outputs: all, inputs: c.inputs, groups, axes: 0..0 }];
        stages.extend(self.runs.iter().map(|axes| Stage { outputs: all, inputs: 1, groups: all, axes: axes.clone() }));
        stages.push(Stage { outputs: c.outputs * groups, inputs: rank, groups, axes: 0..0 });
        stages
    }

    /// The largest rank that saves multiply-accumulates, or parameters.
    fn most(&self, places: &[Place]) -> usize {
        let (whole, one) = (self.cost(places), self.convolution.cost(places, &self.stages(1)));
        let of = |whole: u64, one: u64| usize::try_from(whole.saturating_sub(1) / one.max(1)).unwrap_or(usize::MAX);
        of(whole.macs, one.macs).max(of(whole.parameters, one.parameters))
    }

    fn candidates(&self, most: usize) -> Vec<usize> {
        let c = &self.convolution;
        match c.scene.rule {
            Rule::Own(own @ (Own::Rank(_) | Own::Ratio(_))) => {
                let rank = own.rank(Spectrum { squares: &[], power: 0.0, shape: (most, most) });
                vec![c.scene.settings.rounded(rank, most)]
            }
            Rule::Own(_) | Rule::Budget(_) => thinned(c.scene.settings.grid(most), RANKS),
        }
    }

    /// Terms of a group, and the power of what they lose.
    fn fit(&self, blocks: &Blocks, rank: usize) -> Option<(Terms, f64)> {
        let mut terms = als::cp(&blocks.whitened(), &self.window(), rank)?;
        if !blocks.is_whitened() {
            let lost = blocks.power * terms.error.powi(2);
            return Some((terms, lost));
        }
        terms.inputs = blocks.unwhitened(terms.inputs);
        let (outputs, error) = blocks.regress(&terms.features())?;
        terms.outputs = outputs;
        Some((terms, blocks.power * error))
    }
}

impl Layer for Sum<'_> {
    fn reads(&self) -> Option<Reads> {
        self.convolution.reads()
    }

    fn cost(&self, places: &[Place]) -> Cost {
        self.convolution.whole_cost(places)
    }

    fn decompose<'s>(&'s self, known: &Known<'_>) -> Result<Box<dyn Decomposed + 's>, String> {
        const BROKEN: &str = "its weights, or what it reads, are not finite";
        let matrices = known.weights(|| self.convolution.matrices())?;
        let moments = known.moments.filter(|_| matrices.len() == 1);
        let one = |m: &Mat<f64>| Blocks::new(m.as_ref(), self.convolution.taps(), moments.map(|m| &m.matrix));
        let blocks: Vec<Blocks> = matrices.iter().map(one).collect::<Option<_>>().ok_or(BROKEN)?;
        let power: f64 = blocks.iter().map(|b| b.power).sum();
        let ranks = known.ranks.map_or_else(|| self.candidates(self.most(known.places)), <[usize]>::to_vec);
        let fit = |&rank: &usize| blocks.par_iter().map(|b| self.fit(b, rank)).collect::<Option<Vec<_>>>();
        let fitted: Vec<Vec<(Terms, f64)>> = ranks.par_iter().map(fit).collect::<Option<_>>().ok_or(BROKEN)?;
        let choice = |(&rank, groups): (&usize, &Vec<(Terms, f64)>)| {
            let lost: f64 = groups.iter().map(|g| g.1).sum();
            let error = if power > 0.0 { lost / power } else { 0.0 };
            Choice {
                ranks: vec![rank],
                cost: self.convolution.cost(known.places, &self.stages(rank)),
                energy: 1.0 - error,
                error,
            }
        };
        let mut options: Vec<Choice> = ranks.iter().zip(&fitted).map(choice).collect();
        if let (None, Rule::Own(Own::Energy(share))) = (known.ranks, self.convolution.scene.rule) {
            let enough = options.iter().position(|c| c.energy >= share);
            options = enough.map(|at| options.swap_remove(at)).into_iter().collect();
        }
        let terms = |groups: Vec<(Terms, f64)>| groups.into_iter().map(|g| g.0).collect();
        let found = ranks.into_iter().zip(fitted.into_iter().map(terms)).collect();
        let mean = moments.and_then(|m| m.mean.clone()).zip(matrices.into_iter().next());
        Ok(Box::new(Split { layer: self, options, found, mean, shift: known.shift() }))
    }
}

/// A convolution as sums of products, of several ranks.
struct Split<'a> {
    layer: &'a Sum<'a>,
    options: Vec<Choice>,
    /// Terms of each group, by rank.
    found: BTreeMap<usize, Vec<Terms>>,
    /// Mean of the rows, and the weights.
    mean: Option<(Vec<f64>, Mat<f64>)>,
    /// What is added to the biases besides.
    shift: Vec<f64>,
}

impl Decomposed for Split<'_> {
    fn options(&self) -> &[Choice] {
        &self.options
    }

    fn emit(&self, ranks: &[usize], patch: &mut Patch) -> Result<(), String> {
        const NAMES: [&str; 4] = ["axis_0", "axis_1", "axis_2", "axis_3"];
        let missing = || format!("a rank of {ranks:?} was not decomposed");
        let &[rank] = ranks else { return Err(missing()) };
        let groups = self.found.get(&rank).ok_or_else(missing)?;
        let mut stages = self.layer.stages(rank).into_iter();
        let mut filled = Vec::new();
        let mut fill = |name, values| filled.extend(stages.next().map(|stage| Filled { stage, name, values }));
        fill("inputs", groups.iter().flat_map(|t| row_major(t.inputs.transpose())).collect());
        for axis in 0..self.layer.runs.len() {
            let factors = groups.iter().filter_map(|t| t.axes.get(axis));
            let name = NAMES.get(axis).copied().unwrap_or("axis");
            fill(name, factors.flat_map(|k| row_major(k.transpose())).collect());
        }
        fill("outputs", groups.iter().flat_map(|t| row_major(t.outputs.as_ref())).collect());
        let lost = self.mean.as_ref().zip(groups.first()).map(|((mean, weights), terms)| {
            let features = terms.features();
            let blocks = features.len();
            // Columns `blocks` apart are of one block.
            let feature = |r: usize| -> f64 {
                let column = |(k, x): (usize, &f64)| features.get(k % blocks).map_or(0.0, |f| f[(r, k / blocks)] * x);
                mean.iter().enumerate().map(column).sum()
            };
            let seen: Vec<f64> = (0..rank).map(feature).collect();
            let kept = times(terms.outputs.as_ref(), &seen);
            times(weights.as_ref(), mean).iter().zip(kept).map(|(w, k)| w - k).collect::<Vec<f64>>()
        });
        self.layer.convolution.emit(&filled, total(lost, &self.shift).as_deref(), patch)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rank::Factorization;
    use super::{super::testing::check_with, *};
    use crate::{Target, testing::refusals_for};

    fn model(rows: u64, attributes: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> g (float[1,32,32,32] x) => (float[1,32,{rows},32] y) <float[32,32,3,3] w, float[32] b> {{
                [conv] y = Conv <{attributes}> (x, w, b)
            }}"
        )
    }

    #[test]
    fn an_axis_at_a_time() {
        let cp = Cp(Factorization { rank: Some(8), ..Factorization::default() });
        insta::assert_snapshot!(check_with(
            cp,
            &model(16, "strides = [2, 1], pads = [1, 1, 0, 1], kernel_shape = [3, 3]")
        ));
    }

    #[test]
    fn there_is_no_spectrum() {
        let cp = Cp(Factorization { evbmf: true, ..Factorization::default() });
        let reasons = refusals_for(cp, Target::Generic, &model(32, "pads = [1, 1, 1, 1]"));
        assert_eq!(
            reasons,
            ["a CP decomposition has no spectrum for `evbmf`; give a rank, a ratio, an energy or a budget"]
        );
    }
}
