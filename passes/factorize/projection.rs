//! Convolutions as a projection of their inputs, a smaller convolution, and perhaps a map to the outputs. Tucker-2 and spatial splits are
//! both of this form: they differ in the axes that the projection slides along.

use std::collections::{BTreeMap, BTreeSet};

use faer::{Mat, MatRef};
use planish_ir::Patch;
use rayon::prelude::*;

use super::{
    blocks::{Behind, Blocks},
    convolution::{Convolution, Filled, Stage},
    method::{Choice, Cost, Decomposed, Known, Layer, Moments, Place, Reads, times, total},
    rank::{Own, Rule, Spectrum},
    svd,
};

/// Ranks along a mode that are tried for a budget.
const RANKS: usize = 10;

/// A convolution that is split around a projection.
pub(super) struct Projection<'a> {
    pub(super) convolution: Convolution<'a>,
    /// Spatial axes that the projection slides along, the first ones.
    pub(super) lead: usize,
    /// Outputs are compressed, too.
    pub(super) maps_outputs: bool,
}

/// Ranks of the inputs and of the outputs.
type Pair = (usize, usize);

impl Projection<'_> {
    /// Places behind the projection.
    fn blocks(&self) -> usize {
        self.convolution.window.iter().skip(self.lead).product()
    }

    /// Inputs of the projection.
    fn inner(&self) -> usize {
        self.convolution.inputs * self.convolution.window.iter().take(self.lead).product::<usize>()
    }

    /// Largest rank of the inputs that is not more than there is.
    fn most(&self) -> usize {
        self.inner().min(self.convolution.outputs * self.blocks())
    }

    fn projects(&self, rank: usize) -> bool {
        self.lead > 0 || rank < self.inner()
    }

    fn stages(&self, (inputs, outputs): Pair) -> Vec<Stage> {
        let c = &self.convolution;
        let groups = c.groups;
        let mut stages = Vec::new();
        if self.projects(inputs) {
            stages.push(Stage { outputs: inputs * groups, inputs: c.inputs, groups, axes: 0..self.lead });
        }
        stages.push(Stage { outputs: outputs * groups, inputs, groups, axes: self.lead..c.window.len() });
        if outputs < c.outputs {
            stages.push(Stage { outputs: c.outputs * groups, inputs: outputs, groups, axes: 0..0 });
        }
        stages
    }

    fn ranks(&self, (inputs, outputs): Pair) -> Vec<usize> {
        if self.maps_outputs { vec![inputs, outputs] } else { vec![inputs] }
    }

    fn pair(&self, ranks: &[usize]) -> Result<Pair, String> {
        match *ranks {
            [inputs, outputs] if self.maps_outputs => Ok((inputs, outputs)),
            [inputs] if !self.maps_outputs => Ok((inputs, self.convolution.outputs)),
            _ => Err(format!("it has no ranks {ranks:?}")),
        }
    }

    /// Pairs that are tried for a budget.
    fn grid(&self) -> Vec<Pair> {
        let c = &self.convolution;
        let settings = c.scene.settings;
        let mut inputs = thinned(settings.grid(self.most()));
        let mut outputs = vec![c.outputs];
        if self.maps_outputs {
            outputs.extend(thinned(settings.grid(c.outputs)));
            inputs.push(self.inner());
        }
        let unique: BTreeSet<usize> = outputs.into_iter().collect();
        let pairs = inputs.into_iter().collect::<BTreeSet<usize>>().into_iter();
        pairs.flat_map(|i| unique.iter().map(move |&o| (i, o))).filter(|p| self.stages(*p).len() > 1).collect()
    }

    /// The pair that a rule asks for.
    fn own(&self, own: Own, blocks: &[Blocks]) -> Option<Pair> {
        let c = &self.convolution;
        let settings = c.scene.settings;
        let chosen = |squares: Vec<Vec<f64>>, shape: Pair| {
            // Of each group the rank that it needs, and of those the largest.
            let of = |s: &Vec<f64>| own.rank(Spectrum { squares: s, power: s.iter().sum(), shape });
            squares.iter().map(of).max().unwrap_or(1)
        };
        let inputs: Vec<Vec<f64>> = blocks.iter().map(|b| Some(b.projections()?.1)).collect::<Option<_>>()?;
        let rank = chosen(inputs, (self.inner(), c.outputs * self.blocks()));
        let rank = settings.rounded(rank, self.most());
        if !self.maps_outputs {
            return Some((rank, c.outputs));
        }
        let outputs: Vec<Vec<f64>> = blocks.iter().map(Blocks::output_squares).collect::<Option<_>>()?;
        let output_rank = chosen(outputs, (c.outputs, self.inner() * self.blocks()));
        Some((rank, settings.rounded(output_rank, c.outputs)))
    }
}

/// Every so many, with the last.
fn thinned(ranks: Vec<usize>) -> Vec<usize> {
    let step = ranks.len().div_ceil(RANKS).max(1);
    ranks.into_iter().rev().step_by(step).collect()
}

impl Layer for Projection<'_> {
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
        let one = |m: &Mat<f64>| Blocks::new(m.as_ref(), self.blocks(), moments.map(|m| &m.matrix));
        let blocks: Vec<Blocks> = matrices.iter().map(one).collect::<Option<_>>().ok_or(BROKEN)?;
        let whole = self.convolution.whole_cost(known.places);
        let choice = |pair: Pair, error: f64| Choice {
            ranks: self.ranks(pair),
            cost: self.convolution.cost(known.places, &self.stages(pair)),
            energy: 1.0 - error,
            error,
        };
        let saves = |c: &Choice| c.cost.macs < whole.macs || c.cost.parameters < whole.parameters;
        let own = match (known.ranks, self.convolution.scene.rule) {
            (Some(ranks), _) => Some(self.pair(ranks)?),
            (None, Rule::Own(own)) => Some(self.own(own, &blocks).ok_or(BROKEN)?),
            (None, Rule::Budget(_)) => None,
        };
        let (options, source) = match (own, moments) {
            (Some(pair), _) => {
                let fitted: Vec<Behind> =
                    blocks.par_iter().map(|b| b.best(pair.0, pair.1)).collect::<Option<_>>().ok_or(BROKEN)?;
                let lost: f64 = blocks.iter().zip(&fitted).map(|(b, f)| b.power * b.error(f, pair.1)).sum();
                let power: f64 = blocks.iter().map(|b| b.power).sum();
                let error = if power > 0.0 { lost / power } else { 0.0 };
                (vec![choice(pair, error)], Source::Ready(BTreeMap::from([(pair.0, fitted)])))
            }
            (None, None) => {
                let table = Table::new(&blocks).ok_or(BROKEN)?;
                let options = self.grid().into_iter().map(|p| choice(p, table.error(p))).filter(saves).collect();
                (least(options), Source::Weights(blocks))
            }
            (None, Some(_)) => {
                let saving: Vec<Pair> = self.grid().into_iter().filter(|p| saves(&choice(*p, 0.0))).collect();
                let ranks: BTreeSet<usize> = saving.iter().map(|p| p.0).collect();
                let ranks: Vec<usize> = ranks.into_iter().collect();
                let block = blocks.first().ok_or(BROKEN)?;
                // Outputs are compressed as much as inputs are.
                let alike = |&r: &usize| (r, (self.convolution.outputs * r).div_ceil(self.inner().max(1)));
                let alike: Vec<Pair> = ranks.iter().map(alike).collect();
                let found = block.options(&alike, self.maps_outputs).ok_or(BROKEN)?;
                let mut found: BTreeMap<usize, Vec<Behind>> =
                    ranks.into_iter().zip(found.into_iter().map(|f| vec![f])).collect();
                let error = |p: &Pair| found.get(&p.0).and_then(|f| f.first()).map(|f| block.error(f, p.1));
                let options = least(saving.iter().filter_map(|p| Some(choice(*p, error(p)?))).collect());
                found.retain(|&rank, _| options.iter().any(|c| c.ranks.first() == Some(&rank)));
                (options, Source::Ready(found))
            }
        };
        let mean = moments.and_then(|m: &Moments| m.mean.clone()).zip(matrices.into_iter().next());
        Ok(Box::new(Split { layer: self, options, source, mean, shift: known.shift() }))
    }
}

/// Options of which none is better in everything.
fn least(mut options: Vec<Choice>) -> Vec<Choice> {
    let better = |a: &Choice, b: &Choice| {
        let no_worse = a.cost.time() <= b.cost.time()
            && a.cost.macs <= b.cost.macs
            && a.cost.parameters <= b.cost.parameters
            && a.error <= b.error;
        no_worse && (a.error < b.error || a.cost != b.cost)
    };
    let all = options.clone();
    options.retain(|b| !all.iter().any(|a| better(a, b)));
    options
}

/// Squared errors of the HOSVD for all pairs of ranks: sums over the core of full rank.
struct Table {
    /// What ranks keep, `outputs + 1 x inputs + 1`.
    kept: Mat<f64>,
    power: f64,
}

impl Table {
    fn new(blocks: &[Blocks]) -> Option<Table> {
        let (outputs, inner) = blocks.first()?.shape();
        let mut kept = Mat::<f64>::zeros(outputs + 1, inner + 1);
        let mut power = 0.0;
        for b in blocks {
            let u = svd::eigen(&b.kernel.output_gram(), outputs)?.0;
            let v = svd::eigen(&b.kernel.input_gram(), inner)?.0;
            let core = b.kernel.between(u.transpose(), v.as_ref());
            for tap in &core.taps {
                for j in 0..inner {
                    for i in 0..outputs {
                        kept[(i + 1, j + 1)] += tap[(i, j)].powi(2);
                    }
                }
            }
            power += b.power;
        }
        for j in 1..=inner {
            for i in 1..=outputs {
                kept[(i, j)] += kept[(i - 1, j)] + kept[(i, j - 1)] - kept[(i - 1, j - 1)];
            }
        }
        Some(Table { kept, power })
    }

    fn error(&self, (inputs, outputs): Pair) -> f64 {
        let (i, j) = (outputs.min(self.kept.nrows() - 1), inputs.min(self.kept.ncols() - 1));
        if self.power > 0.0 { (1.0 - self.kept[(i, j)] / self.power).max(0.0) } else { 0.0 }
    }
}

/// A convolution around projections of one or several ranks.
struct Split<'a> {
    layer: &'a Projection<'a>,
    options: Vec<Choice>,
    source: Source,
    /// Mean of the rows, and the weights.
    mean: Option<(Vec<f64>, Mat<f64>)>,
    /// What is added to the biases besides.
    shift: Vec<f64>,
}

enum Source {
    /// Of each group, for each rank of the inputs.
    Ready(BTreeMap<usize, Vec<Behind>>),
    /// Found for the ranks that are asked for.
    Weights(Vec<Blocks>),
}

impl Decomposed for Split<'_> {
    fn options(&self) -> &[Choice] {
        &self.options
    }

    fn emit(&self, ranks: &[usize], patch: &mut Patch) -> Result<(), String> {
        let layer = self.layer;
        let c = &layer.convolution;
        let pair = layer.pair(ranks)?;
        let missing = || format!("ranks of {ranks:?} were not decomposed");
        let found;
        let groups: &[Behind] = match &self.source {
            Source::Ready(by_rank) => by_rank.get(&pair.0).ok_or_else(missing)?,
            Source::Weights(blocks) => {
                let fitted = blocks.par_iter().map(|b| b.fitted(pair.0, pair.1));
                found = fitted.collect::<Option<Vec<_>>>().ok_or_else(missing)?;
                &found
            }
        };
        let (mut first, mut core, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for behind in groups {
            let (mut weights, outputs) = behind.split(pair.1);
            match layer.projects(pair.0) {
                true => first.extend(row_major(behind.projection.transpose())),
                false => weights = weights.times(behind.projection.transpose()),
            }
            core.extend(row_major(weights.rows().as_ref()));
            last.extend(outputs.iter().flat_map(|u| row_major(u.as_ref())));
        }
        let mut stages = layer.stages(pair).into_iter();
        let mut filled = Vec::new();
        let mut fill = |name, values| filled.extend(stages.next().map(|stage| Filled { stage, name, values }));
        if layer.projects(pair.0) {
            fill("inputs", first);
        }
        fill("core", core);
        fill("outputs", last);
        let lost = self.mean.as_ref().zip(groups.first()).map(|((mean, weights), behind)| {
            let (weights_behind, outputs) = behind.split(pair.1);
            let mut made = weights_behind.times(behind.projection.transpose());
            if let Some(u) = outputs {
                made = made.after(u.as_ref());
            }
            times((weights - made.rows()).as_ref(), mean)
        });
        c.emit(&filled, total(lost, &self.shift).as_deref(), patch)
    }
}

/// Elements, row by row.
pub(super) fn row_major(m: MatRef<'_, f64>) -> Vec<f64> {
    (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect()
}
