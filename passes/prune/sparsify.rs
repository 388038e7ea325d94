//! Make weights sparse: so many of them, or so many of each few neighbours, are exactly zero, and the others make up for it.
//!
//! Before     y = MatMul (x, w)                      w is dense
//! After      y = MatMul (x, w')                     2:4: of any four inputs that are neighbours, each output reads at most two
//! When       weights of MatMul, Gemm and Conv, of `min_elements` or more
//! Refuses    weights that are also read elsewhere, or not finite · depthwise convolutions · fewer channels than the pattern has ·
//!            in subgraphs, whose activations are not seen, anything but `magnitude`
//! Numerics   Lossy: the report gives the error of each layer, on samples that the fit has not seen
//! Reference  Frantar, Alistarh: SparseGPT, ICML 2023; Sun et al.: A Simple and Effective Pruning Approach for Large Language Models
//!            (Wanda), ICLR 2024; Mishra et al.: Accelerating Sparse Deep Neural Networks, 2021 (2:4)
//!
//! **What is asked for** is `sparsity`, the share of each weight that becomes zero, or `pattern`, such as `2:4`: along the channels that
//! are summed over, in each tap of a convolution, as sparse tensor cores want it. Shapes stay, and so does the time that runtimes take which
//! do not look for zeros. Later quantization keeps zeros, except in two levels, which have none; `sparse-initializers` stores them for less
//! where they are many.
//!
//! **Which weights go** is `method`: the smallest (`magnitude`), the smallest after multiplication with the root mean square of their
//! inputs (`wanda`), or those whose loss the others make up for best (`sparsegpt`, the default where there is calibration data; it also
//! moves the bias). Each layer is fitted by itself, to what it computed from its inputs before. The ridge is the one that loses least on
//! samples that were held out, unless `damping` gives it; a layer for which even that is worse than `wanda` becomes what `wanda` makes of
//! it, and the report says so.

mod compensate;
mod fit;
mod pattern;
mod sites;
#[cfg(test)]
mod tests;

use planish_ir::{Model, Numerics, Patch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Skip, Transform, reconstruct::with_own_vectors};
use fit::Fitted;
use pattern::Goal;
pub use pattern::Pattern;
use sites::Site;

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sparsify {
    /// Share of each weight that becomes zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
    /// How many of how many neighbours stay, such as `"2:4"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub pattern: Option<Pattern>,
    /// Which weights become zero.
    pub method: Method,
    /// Share of the mean second moment of the inputs that is added to all of them; by default the best on held samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damping: Option<f64>,
    /// Weights with fewer elements stay as they are.
    pub min_elements: u64,
    /// Weights and nodes to leave alone, by name.
    pub protect: Vec<String>,
}

/// Which weights become zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// `sparsegpt` if there is calibration data, `magnitude` if not.
    #[default]
    Auto,
    /// The smallest.
    Magnitude,
    /// The smallest after multiplication with the size of their inputs.
    Wanda,
    /// Those whose loss the others, which are changed, make up for best.
    Sparsegpt,
}

impl Default for Sparsify {
    fn default() -> Sparsify {
        Sparsify {
            sparsity: None,
            pattern: None,
            method: Method::Auto,
            damping: None,
            min_elements: 1024,
            protect: Vec::new(),
        }
    }
}

impl Pass for Sparsify {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Sparsify {
    fn goal(&self) -> Result<Goal, PassError> {
        let wrong = |reason: String| Err(PassError::Precondition(reason));
        if let Some(damping) = self.damping.filter(|d| !(d.is_finite() && *d >= 0.0)) {
            return wrong(format!("`damping` is {damping}, and it is a share from 0 on"));
        }
        match (self.sparsity, self.pattern) {
            (Some(share), None) if share > 0.0 && share < 1.0 => Ok(Goal::Share(share)),
            (Some(share), None) => wrong(format!("`sparsity` is {share}, and it is a share between 0 and 1")),
            (None, Some(pattern)) => Ok(Goal::Pattern(pattern)),
            _ => wrong("give one goal: `- sparsify: {sparsity: 0.5}` or `- sparsify: {pattern: \"2:4\"}`".to_owned()),
        }
    }
}

impl Transform for Sparsify {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let run = |model: &Model, cx: &Context<'_>| self.sparsify(model, cx);
        // Without a fit no bias changes.
        let fits = self.method != Method::Magnitude && cx.calibration.is_some();
        if fits { with_own_vectors(model, cx, run) } else { run(model, cx) }
    }
}

impl Sparsify {
    fn sparsify(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let goal = self.goal()?;
        let calibration = match self.method {
            Method::Magnitude => None,
            Method::Auto => cx.calibration,
            Method::Wanda | Method::Sparsegpt => Some(cx.calibrated()?),
        };
        let mut changes = Changes::default();
        let (mut sites, skipped) = sites::sites(model, self, goal);
        changes.skipped = skipped;
        let Some(calibration) = calibration else {
            if self.method == Method::Auto && !sites.is_empty() {
                changes
                    .notes
                    .push("the smallest weights go: there is no calibration data to tell which matter".to_owned());
            }
            for site in &sites {
                self.emit(site, fit::magnitude(site, goal)?, goal, &mut changes)?;
            }
            return Ok(changes);
        };
        sites.retain(|site| {
            let Some(linear) = site.linears.first().filter(|_| !site.path.is_main()) else { return true };
            let reason = format!("{:?} is in a subgraph, whose activations are not seen", site.name);
            changes.skipped.push((site.path.clone(), linear.node, Skip::because(reason)));
            false
        });
        let mut summary = Vec::new();
        fit::fit(model, &sites, calibration, self, goal, |site, fitted| {
            summary.extend(fitted.error.map(|e| (e, site.name.clone())));
            self.emit(site, fitted, goal, &mut changes)
        })?;
        summary.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        if let (Some((median, _)), Some((worst, name))) = (summary.get(summary.len() / 2), summary.last()) {
            let note = format!(
                "{} weights are sparse; {:.2} % of the power of what a layer computes is lost in the median, {:.2} % at most ({name})",
                summary.len(),
                100.0 * median,
                100.0 * worst
            );
            changes.notes.insert(0, note);
        }
        Ok(changes)
    }
}

impl Sparsify {
    /// The patch of a weight, and what the report says of it.
    fn emit(&self, site: &Site<'_>, fitted: Fitted, goal: Goal, changes: &mut Changes) -> Result<(), PassError> {
        let error = |source| PassError::Tensor { place: site.name.clone(), source };
        let (Some(linear), Some(weight)) = (site.linears.first(), site.weight()) else { return Ok(()) };
        let tensor = linear.tensor(&fitted.matrices, site.tensor).map_err(error)?;
        let zeros = tensor.to_f64().map_err(error)?.iter().filter(|v| **v == 0.0).count();
        let what = match goal {
            Goal::Share(share) => format!("{:.1} % zeros", 100.0 * share),
            Goal::Pattern(pattern) => pattern.to_string(),
        };
        let mut patch = Patch::new(Numerics::Lossy, format!("{:?}: {what}", site.name));
        patch.set_tensor(weight, tensor);
        if let (Some(linear), Some(shift)) = (site.own_bias(), &fitted.shift) {
            linear.shift_bias(site.graph, &mut patch, shift).map_err(error)?;
        }
        changes.patches.push((site.path.clone(), patch));
        let share = 100.0 * zeros as f64 / site.tensor.elements().max(1) as f64;
        let lost = fitted.error.map_or_else(String::new, |e| format!(", {:.2} % of the power lost", 100.0 * e));
        let note = format!("{} {:?}: {share:.1} % zeros by {}{lost}", site.name, site.tensor.dims(), fitted.by);
        changes.notes.push(note);
        Ok(())
    }
}
