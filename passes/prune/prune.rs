//! Take out channels, heads and neurons, and let the weights behind them make up for it.
//!
//! Before     h = Relu (Conv (x, w0));  y = Conv (h, w1)          h has 64 channels
//! After      h = Relu (Conv (x, w0'));  y = Conv (h, w1', b')    h has 40; w1' and b' are fitted to what the layer computed before
//! When       channels that nothing blocks (`planish inspect --prunable`) and that only layers with constant weights sum over:
//!            MatMul, Gemm and Conv of the main graph; with samples also the channels of queries and keys, of all heads of a layer alike
//! Refuses    channels that are mixed (normalized over), that another activation sums over, or that a convolution in groups sums over
//! Numerics   Lossy: the report gives the error of the outputs on samples that the fits, of which it takes the better, have not seen.
//!            Without samples it is not known, and larger
//! Reference  Hassibi, Stork: Second order derivatives for network pruning: optimal brain surgeon, NIPS 1992; Frantar, Alistarh: Optimal
//!            Brain Compression, NeurIPS 2022
//!
//! Which channels go within a class follows from the second moments of what its readers read. How many go in each class follows from
//! what that does to the outputs, on samples that were held out, and from what it saves: first measured by taking a quarter out of each
//! class alone, then by what taking less or more of it would do to the model that came of that. The channels of heads are first turned
//! into the basis in which the last of them matter least, as `low-rank-attention` does; of these the last ones go. A `latency` is reached
//! by timing models of the shapes that budgets of MACs lead to.

use std::collections::BTreeMap;

use planish_ir::{Model, axes::classes, infer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    allocate::{Budget, Costs},
    criterion::Criterion,
    fitting::{Fitting, Removed},
    groups::{Asked, Group, Kind},
    latency::Latency,
    search::{Found, Judging, Search},
    turned::Turned,
};
use crate::{
    Calibration, Changes, Context, Pass, PassError, Shape, Transform,
    calibration::{bindings, unit_bindings},
    heads::{self, Unit},
    reconstruct::{Fold, Held, with_own_vectors},
    trust_region::{ROUNDS, few},
};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prune {
    /// Share of the multiply-accumulates to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<f64>,
    /// Share of the parameters to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<f64>,
    /// Share of the bytes of the weights to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<f64>,
    /// Share of the time to keep that one run takes in onnxruntime on the first sample. The one budget that is measured, and not the same in
    /// each run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<f64>,
    /// What may go.
    pub units: Vec<Kind>,
    /// In which order channels go.
    pub criterion: Criterion,
    /// What is kept of a class is a multiple of this, where the class is large enough: runtimes are slow on odd sizes.
    pub round_to: u64,
    /// Share of each class that is kept at least.
    pub min_keep: f64,
    /// Weights whose channels stay, by name.
    pub protect: Vec<String>,
    /// Samples on which effects are measured, at most: of all samples every second one, which trial fits do not see.
    pub probes: u64,
    /// How often the search measures anew what each change does, around the best that it has found, as long as that helps. Each time takes
    /// about as long as the first.
    pub rounds: u64,
}

impl Default for Prune {
    fn default() -> Prune {
        Prune {
            macs: None,
            params: None,
            bytes: None,
            latency: None,
            units: vec![Kind::Channels, Kind::Heads, Kind::Neurons, Kind::HeadChannels],
            criterion: Criterion::default(),
            round_to: 8,
            min_keep: 0.1,
            protect: Vec::new(),
            probes: 128,
            rounds: ROUNDS,
        }
    }
}

impl Pass for Prune {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Prune {
    /// That for a latency is found later.
    fn budget(&self) -> Result<Budget, PassError> {
        let (budget, share) = match (self.macs, self.params, self.bytes, self.latency) {
            (Some(share), None, None, None) | (None, None, None, Some(share)) => (Budget::Macs(share), share),
            (None, Some(share), None, None) => (Budget::Parameters(share), share),
            (None, None, Some(share), None) => (Budget::Bytes(share), share),
            _ => {
                let message = "give one budget, the share that is kept: `- prune: {macs: 0.5}`, `{params: 0.5}`, `{bytes: 0.5}` or \
                               `{latency: 0.5}`";
                return Err(PassError::Precondition(message.to_owned()));
            }
        };
        match share > 0.0 && share <= 1.0 {
            true => Ok(budget),
            false => Err(PassError::Precondition(format!("{share} is no share to keep, from above 0 to 1"))),
        }
    }
}

impl Transform for Prune {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        with_own_vectors(model, cx, |model, cx| self.prune(model, cx))
    }
}

impl Prune {
    fn prune(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let budget = self.budget()?;
        let latency = self.latency.map(|share| Latency::new(share, model, cx)).transpose()?;
        let calibration = cx.calibration;
        let bindings = match calibration {
            Some(c) => {
                let sample = c.samples.get(0)?;
                bindings(model, &sample)
            }
            None => unit_bindings(model),
        };
        let classes = classes(model, cx.facts);
        let mut changes = Changes::default();
        let held = calibration.map(|c| Held::new(Fold::First, model, c, self.probes)).transpose()?;
        changes.notes.extend(held.as_ref().and_then(Held::bounded));
        let any = heads::Asked { wanted: &|_| true, protected: &self.protect };
        let (units, _) = heads::units(model, cx, &classes, &bindings, &any);
        let turned = self.turned(model, calibration.zip(held.as_ref()), &units, &mut changes.notes)?;
        let asked = Asked { kinds: &self.units, protected: &self.protect, heads: &units, are_turned: turned.is_some() };
        let (groups, notes) = Group::all(model, cx, &classes, &bindings, &asked);
        changes.notes.extend(notes);
        if groups.is_empty() {
            changes.notes.push("nothing can be pruned; `planish inspect --prunable` says why".to_owned());
            return Ok(changes);
        }
        if calibration.is_none() {
            let warning = "warning: without calibration data channels are chosen and made up for by how alike their weights are, which loses \
                           much more than what is fitted to data; give samples if there are any";
            changes.notes.push(warning.to_owned());
        }
        let in_bases = turned.as_ref().map_or(model, |t| &t.model);
        let mut fitting = Fitting::new(in_bases, cx, calibration, &classes, &groups)?;
        let known = turned.as_ref().map_or_else(BTreeMap::new, |t| t.curves(self.min_keep));
        let curves = fitting.curves(&groups, &known, self.min_keep, self.criterion);
        // With the sizes of a sample also those are known that follow from open ones in ways that have no closed form.
        let sized = infer::infer(model, &bindings);
        let costs = Costs::of_model(model, &sized, &classes, &bindings, budget);
        if costs.total(&BTreeMap::new()) <= 0.0 {
            let why = format!(
                "the {} of the model are not known, as sizes cannot be inferred; give those that are open with --dim NAME=N, or another \
                 budget, as `params`",
                budget.what()
            );
            return Err(PassError::Precondition(why));
        }
        let crossed = calibration.map(|c| Held::crossed(model, c, self.probes)).transpose()?.flatten();
        let few =
            held.as_ref().zip(calibration).map(|(h, c)| few(h, (model, cx.facts), c, groups.len())).transpose()?;
        changes.notes.extend(few.as_ref().zip(held.as_ref()).and_then(|(few, held)| few.measured(held)));
        let search = Search {
            groups: &groups,
            curves: &curves,
            fitting: &fitting,
            held: held.as_ref().zip(few.as_ref()).map(|(all, few)| Judging { all, few }),
            crossed: crossed.as_ref(),
            costs: &costs,
            budget,
            rounds: self.rounds,
            latency,
        };
        let Found { taken, errors } = search.run(self.round_to, &mut changes.notes)?;
        let mut removed = Removed::new();
        let mut shares = BTreeMap::new();
        for (group, curve, count) in taken {
            removed.insert(group.class, curve.first(count));
            shares.insert(group.class, count as f64 / group.size as f64);
            let share = 100.0 * curve.error_at(count);
            changes.notes.push(format!(
                "{}: {} of {} {} stay; what reads them loses {share:.2} % of its power",
                group.name,
                group.size - count,
                group.size,
                group.kind.what()
            ));
        }
        let kept = costs.total(&shares) / costs.total(&BTreeMap::new()).max(1.0);
        // With one sample there is no other to judge by.
        let judged = match (errors, &held) {
            (Some(errors), _) => crossed.as_ref().map(|c| (errors, c)),
            (None, Some(held)) if !removed.is_empty() => Some((fitting.errors(&removed, held)?, held)),
            _ => None,
        };
        let said = match judged {
            Some((errors, held)) => format!("{}: {errors}", held.place()),
            None if removed.is_empty() => "nothing goes".to_owned(),
            None => "what that does to the outputs is not known".to_owned(),
        };
        let errors = judged.map(|j| j.0);
        changes.notes.insert(0, format!("{:.1} % of the {} are kept; {said}", 100.0 * kept, budget.what()));
        if !removed.is_empty() {
            let finished = match &turned {
                Some(turned) => {
                    let (ridges, whole) = (fitting.into_ridges(), turned.whole(&removed)?);
                    let whole = Fitting::new(whole.as_ref().unwrap_or(model), cx, calibration, &classes, &groups)?;
                    whole.damped_as(&ridges).finish(&removed, errors)?
                }
                None => fitting.finish(&removed, errors)?,
            };
            changes.patches = finished.patches;
            changes.notes.extend(finished.notes);
        }
        let asked = budget.share();
        if self.latency.is_none() && kept > asked + 0.02 {
            changes.notes.push(format!("{:.1} % were asked for: no more can be taken out", 100.0 * asked));
        }
        Ok(changes)
    }

    /// The model with its heads in other bases. None if their channels are not asked for, without samples, or if it cannot be done, which
    /// is noted.
    fn turned<'a>(
        &self,
        model: &'a Model,
        seen: Option<(&Calibration<'_>, &Held)>,
        units: &'a [Unit],
        notes: &mut Vec<String>,
    ) -> Result<Option<Turned<'a>>, PassError> {
        let is_asked = self.units.contains(&Kind::HeadChannels) && !units.is_empty();
        let Some((calibration, held)) = seen.filter(|_| is_asked) else { return Ok(None) };
        match Turned::new(model, calibration, units, held) {
            Ok(turned) => Ok(Some(turned)),
            Err(PassError::Precondition(why)) => {
                notes.push(why);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
