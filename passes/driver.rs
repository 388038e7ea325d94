//! The driver: runs passes, and is the only place where patches meet the graph.
//!
//! It applies patches one by one and numbers them, so that `stop_after` can end a run at any of them and a search can
//! find the first one after which something is wrong. After each pass that changed anything the verifier runs, and the
//! interface is compared with that of the original; a pass that breaks either is a bug and ends the run.

use std::collections::{BTreeSet, VecDeque};

use planish_ir::{
    Applied, Graph, GraphPath, Interface, Model, Node, NodeId, Numerics, Patch, PatchError, VerifyError, cost,
    infer::{self, Inferred},
    verify,
};

use crate::{
    Calibration, Changes, Context, Engine, Layer, Pass, PassError, Rule, RuleContext, Shape, Skip, Step, StepConfig,
    Stopwatch, Target, Transform, Weights, registry,
};

/// Settings of a run.
pub struct Driver<'a> {
    /// Runs models for passes that need it.
    pub engine: Option<&'a dyn Engine>,
    /// For passes that look at activations.
    pub calibration: Option<Calibration<'a>>,
    /// For passes that are to reach a latency.
    pub stopwatch: Option<&'a dyn Stopwatch>,
    /// Reads large weights.
    pub weights: &'a dyn Weights,
    /// What the result is made for.
    pub target: Target,
    /// End after the patch with this number.
    pub stop_after: Option<u64>,
    /// Sizes of symbolic dims, for the costs in the reports.
    pub bindings: infer::Bindings,
    /// Is told what happens.
    pub observer: &'a dyn Observer,
}

/// Is told what happens. All methods default to nothing.
pub trait Observer {
    /// A pass begins.
    fn pass_begins(&self, _name: &str) {}
    /// A rule looks at a node.
    fn looks(&self, _pass: &'static str, _graph: &Graph, _node: &Node) {}
    /// A patch was applied.
    fn patch(&self, _patch: &Patched<'_>) {}
    /// A pass looked at a node and left it alone.
    fn refusal(&self, _refusal: &Refusal) {}
    /// True if refusals are to include near misses: nodes where a part of what a rule is about was found.
    fn explains(&self) -> bool {
        false
    }
    /// A pass is done.
    fn pass_ends(&self, _report: &PassReport) {}
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoObserver;

impl Observer for NoObserver {}

/// A patch that was applied.
#[derive(Debug, Clone, Copy)]
pub struct Patched<'a> {
    /// Its number, from 1 on.
    pub number: u64,
    /// The pass that made it.
    pub pass: &'static str,
    /// What it did, in a few words.
    pub note: &'a str,
    /// The graph as it is now.
    pub graph: &'a Graph,
    /// The nodes that it added, removed and touched.
    pub applied: &'a Applied,
}

/// A rule looked at a node and did not act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The pass.
    pub pass: &'static str,
    /// Name of the node, or of its first output.
    pub node: String,
    /// Operator of the node.
    pub op: String,
    /// Names of the node's outputs.
    pub outputs: Vec<String>,
    /// Why.
    pub reason: String,
}

/// What one pass did.
#[derive(Debug, Clone)]
pub struct PassReport {
    /// Name in the registry.
    pub name: &'static str,
    /// Patches that it made.
    pub patches: u64,
    /// The worst class among them.
    pub numerics: Numerics,
    /// Nodes that its last run looked at and left alone, each time it did.
    pub refusals: u64,
    /// Limits that took effect, figures that the pass measured.
    pub notes: Vec<String>,
    /// What became of nodes that could compute with fewer bits.
    pub layers: Vec<Layer>,
    /// Before.
    pub before: Size,
    /// After.
    pub after: Size,
}

/// The size of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Nodes without `Constant`, those of subgraphs included.
    pub nodes: u64,
    /// Elements of weights.
    pub parameters: u64,
    /// Bytes of all constants.
    pub bytes: u64,
    /// Multiply-accumulates of one run, as far as they are known.
    pub macs: u64,
    /// Nodes of which the multiply-accumulates are not known, because a dim has no value.
    pub unknown_macs: u64,
}

impl Size {
    /// Measures a model of which `facts` are known; `bindings` gives values to symbolic dims.
    pub fn of(model: &Model, facts: &Inferred, bindings: &infer::Bindings) -> Size {
        let c = cost::cost_of(model, facts, bindings);
        Size {
            nodes: c.nodes,
            parameters: c.parameters,
            bytes: c.weight_bytes,
            macs: c.macs,
            unknown_macs: c.unknown.len() as u64,
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// One entry per pass that ran, in order; of a group, those members that changed anything.
    pub passes: Vec<PassReport>,
    /// The model before the first pass.
    pub before: Size,
    /// The model after the last one.
    pub after: Size,
    /// Patches in all.
    pub patches: u64,
    /// True if `stop_after` ended the run.
    pub stopped: bool,
}

impl Outcome {
    /// The worst class of all patches.
    pub fn numerics(&self) -> Numerics {
        self.passes.iter().map(|p| p.numerics).max().unwrap_or(Numerics::Exact)
    }
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The pass cannot run on this model.
    #[error("{pass}: {source}")]
    Pass {
        /// Name of the pass.
        pass: &'static str,
        /// Why.
        source: PassError,
    },
    /// A pass left an invalid model behind. A bug in planish.
    #[error("{pass} broke the model (after patch #{patch}); this is a bug in planish. {source}")]
    Broken {
        /// Name of the pass.
        pass: &'static str,
        /// Number of its last patch.
        patch: u64,
        /// What is wrong.
        source: VerifyError,
    },
    /// A pass made an illegal patch. A bug in planish.
    #[error("{pass} made an illegal patch ({note}): {source}; this is a bug in planish")]
    Illegal {
        /// Name of the pass.
        pass: &'static str,
        /// What the patch was to do.
        note: String,
        /// What is wrong.
        source: Box<PatchError>,
    },
    /// A rule goes on for ever. A bug in planish.
    #[error("{pass} was still changing the graph after {patches} patches; this is a bug in planish")]
    Endless {
        /// Name of the pass.
        pass: &'static str,
        /// How many it had made.
        patches: u64,
    },
}

/// Rounds of a group. Each round can only shrink what the next has to do; real models need two or three.
const MAX_ROUNDS: usize = 16;

impl Driver<'_> {
    /// Runs the steps in order. On an error the model is as the last good patch left it.
    pub fn run(&self, model: &mut Model, steps: &[StepConfig]) -> Result<Outcome, DriverError> {
        // Rules ask for shapes; files declare only some.
        let facts = infer::annotate(model);
        let size = Size::of(model, &facts, &self.bindings);
        let stopped = self.stop_after == Some(0);
        let outcome = Outcome { before: size, after: size, stopped, ..Outcome::default() };
        let mut run = Run { driver: self, interface: Interface::of(model), facts, outcome, lossless: None };
        for (i, step) in steps.iter().enumerate() {
            if run.outcome.stopped {
                break;
            }
            // A copy shares the weights.
            let wanted = run.lossless.is_none() && steps.iter().skip(i + 1).any(compares);
            let before = wanted.then(|| model.clone());
            run.pass(model, step.name, &*step.pass, true)?;
            if run.outcome.numerics() == Numerics::Lossy {
                run.lossless = run.lossless.take().or(before);
            }
        }
        Ok(run.outcome)
    }
}

struct Run<'a> {
    driver: &'a Driver<'a>,
    interface: Interface,
    /// What was inferred of the model as the last pass that changed it left it.
    facts: Inferred,
    outcome: Outcome,
    /// The model before the first lossy pass, if a later one compares.
    lossless: Option<Model>,
}

fn compares(step: &StepConfig) -> bool {
    matches!(step.pass.shape(), Shape::Transform(t) if t.compares())
}

/// What a pass did so far.
struct Progress {
    name: &'static str,
    patches: u64,
    numerics: Numerics,
    refusals: u64,
    notes: Vec<String>,
    layers: Vec<Layer>,
    /// Some of its patches did, so that there may be values whose types are not known yet.
    adds_nodes: bool,
    /// Nodes of the main graph that were changed, or that have such a node in a subgraph.
    touched: BTreeSet<NodeId>,
    /// What was known of values before need not hold any more.
    forgets: bool,
}

impl Progress {
    const fn new(name: &'static str) -> Progress {
        Progress {
            name,
            patches: 0,
            numerics: Numerics::Exact,
            refusals: 0,
            notes: Vec::new(),
            layers: Vec::new(),
            adds_nodes: false,
            touched: BTreeSet::new(),
            forgets: false,
        }
    }
}

impl Run<'_> {
    /// Returns true if the pass changed anything.
    fn pass(
        &mut self,
        model: &mut Model,
        name: &'static str,
        pass: &dyn Pass,
        report_idle: bool,
    ) -> Result<bool, DriverError> {
        if let Shape::Group(steps) = pass.shape() {
            return self.group(model, name, steps);
        }
        self.driver.observer.pass_begins(name);
        // What is measured after a pass is what the next one finds.
        let before = self.outcome.after;
        let mut progress = Progress::new(name);
        match pass.shape() {
            Shape::Rule(rule) => {
                // Lent, because patches change what else there is of the run.
                let mut facts = std::mem::take(&mut self.facts);
                self.rule(model, rule, &mut facts, &mut progress)?;
                self.facts = facts;
            }
            Shape::Transform(transform) => self.transform(model, transform, &mut progress)?,
            Shape::Group(_) => {}
        }
        let changed = progress.patches > 0;
        if changed {
            let mut facts = std::mem::take(&mut self.facts);
            let check = || verify(model).and_then(|_| self.interface.check(model));
            let bindings = &self.driver.bindings;
            let learn = || {
                match progress.forgets {
                    true => facts = infer::infer(model, &infer::Bindings::new()),
                    false => facts.update(model, &progress.touched),
                }
                Size::of(model, &facts, bindings)
            };
            let (checked, after) = rayon::join(check, learn);
            checked.map_err(|source| DriverError::Broken { pass: name, patch: self.outcome.patches, source })?;
            if progress.adds_nodes {
                facts.store(model);
            }
            self.outcome.after = after;
            self.facts = facts;
        }
        if changed || report_idle || !progress.notes.is_empty() {
            let after = self.outcome.after;
            let Progress { name, patches, numerics, refusals, notes, layers, .. } = progress;
            let report = PassReport { name, patches, numerics, refusals, notes, layers, before, after };
            self.driver.observer.pass_ends(&report);
            self.merge(report);
        }
        Ok(changed)
    }

    /// Rounds of the same pass one after the other report as one.
    fn merge(&mut self, report: PassReport) {
        match self.outcome.passes.last_mut() {
            Some(last) if last.name == report.name => {
                last.patches += report.patches;
                last.numerics = last.numerics.max(report.numerics);
                last.refusals = report.refusals;
                last.after = report.after;
                last.notes.extend(report.notes);
                last.notes.dedup();
            }
            _ => self.outcome.passes.push(report),
        }
    }

    fn group(&mut self, model: &mut Model, name: &'static str, steps: &'static [Step]) -> Result<bool, DriverError> {
        // A test holds that groups name passes which exist and can be built.
        let members = steps.iter().filter_map(|s| registry::find(s.pass)?.default_step().ok());
        // With each the number of patches when it last found nothing to do.
        let mut members: Vec<(StepConfig, Option<u64>)> = members.map(|m| (m, None)).collect();
        let mut any = false;
        for _ in 0..MAX_ROUNDS {
            let mut changed = false;
            for (member, seen) in &mut members {
                if self.outcome.stopped {
                    return Ok(any);
                }
                if *seen == Some(self.outcome.patches) {
                    continue;
                }
                let acted = self.pass(model, member.name, &*member.pass, false)?;
                *seen = (!acted).then_some(self.outcome.patches);
                changed |= acted;
            }
            any |= changed;
            if !changed {
                return Ok(any);
            }
        }
        log::warn!("{name}: still changing after {MAX_ROUNDS} rounds; going on");
        Ok(any)
    }

    fn rule(
        &mut self,
        model: &mut Model,
        rule: &dyn Rule,
        inferred: &mut Inferred,
        progress: &mut Progress,
    ) -> Result<(), DriverError> {
        let unknown = infer::GraphFacts::default();
        // Inner graphs first: a rewrite of the graph around them may move what is in them.
        for path in model.graph_paths().into_iter().rev() {
            let Some(graph) = model.graph_at(&path) else { continue };
            if !graph.nodes().any(|(_, n)| rule.matches(&n.op)) {
                continue;
            }
            // A verified graph has no cycle.
            let order = graph.topological_order().unwrap_or_default();
            let limit = 100 + 20 * order.len() as u64;
            let start = progress.patches;
            let mut work: VecDeque<NodeId> = order.into();
            while let Some(id) = work.pop_front() {
                if self.outcome.stopped {
                    return Ok(());
                }
                let Some(graph) = model.graph_at(&path) else { break };
                let Some(node) = graph.node(id) else { continue };
                if !rule.matches(&node.op) {
                    continue;
                }
                let facts = inferred.graph().at(&path).unwrap_or(&unknown);
                let Driver { target, observer, .. } = *self.driver;
                observer.looks(progress.name, graph, node);
                let cx = RuleContext { graph, opsets: &model.opsets, facts, target, explains: observer.explains() };
                match rule.rewrite(&cx, id, node) {
                    Ok(patch) => {
                        if let Some(applied) = self.apply(model, &path, patch, Some(id), progress)? {
                            if let (Some(graph), Some(facts)) =
                                (model.graph_at(&path), inferred.graph_mut().at_mut(&path))
                            {
                                facts.learn(graph, &applied.added, &model.opsets);
                            }
                            work.extend(applied.touched);
                        }
                    }
                    Err(skip) => self.refuse(graph, id, &skip, progress),
                }
                if progress.patches - start > limit {
                    return Err(DriverError::Endless { pass: progress.name, patches: progress.patches });
                }
            }
        }
        Ok(())
    }

    fn transform(
        &mut self,
        model: &mut Model,
        transform: &dyn Transform,
        progress: &mut Progress,
    ) -> Result<(), DriverError> {
        let Driver { engine, stopwatch, weights, target, .. } = *self.driver;
        let calibration = self.driver.calibration.as_ref();
        let lossless = self.lossless.as_ref().filter(|_| transform.compares());
        let cx = Context { engine, calibration, stopwatch, weights, target, facts: &self.facts, lossless };
        let changes =
            transform.transform(model, &cx).map_err(|source| DriverError::Pass { pass: progress.name, source })?;
        let Changes {
            patches,
            opsets,
            ir_version,
            changes_interface,
            remove_uncalled_functions,
            skipped,
            notes,
            layers,
        } = changes;
        progress.notes = notes;
        progress.layers = layers;
        for (path, id, skip) in skipped {
            if let Some(graph) = model.graph_at(&path) {
                self.refuse(graph, id, &skip, progress);
            }
        }
        for (path, patch) in patches {
            // Nodes and the version that they are written for change together: there is no valid model in between.
            if self.outcome.stopped && opsets.is_empty() {
                return Ok(());
            }
            self.apply(model, &path, patch, None, progress)?;
        }
        if changes_interface {
            self.interface = Interface::of(model);
        }
        for (domain, version) in opsets {
            if model.opsets.insert(domain, version) != Some(version) {
                progress.forgets = true;
                // It is a change, also if no node had to follow.
                progress.patches = progress.patches.max(1);
            }
        }
        if remove_uncalled_functions && model.remove_uncalled_functions() > 0 {
            progress.patches = progress.patches.max(1);
        }
        model.ir_version = model.ir_version.max(ir_version.unwrap_or(0));
        Ok(())
    }

    /// Returns what it did, or `None` if the patch was refused.
    fn apply(
        &mut self,
        model: &mut Model,
        path: &GraphPath,
        patch: Patch,
        root: Option<NodeId>,
        progress: &mut Progress,
    ) -> Result<Option<Applied>, DriverError> {
        let (note, numerics) = (patch.note().to_owned(), patch.numerics());
        match model.apply(path, patch) {
            Ok(applied) => {
                self.outcome.patches += 1;
                progress.patches += 1;
                progress.adds_nodes |= !applied.added.is_empty();
                progress.forgets |= applied.retyped || numerics == Numerics::Lossy;
                match path.steps().next() {
                    None => progress.touched.extend(&applied.touched),
                    Some((owner, _)) => {
                        progress.touched.insert(owner);
                    }
                }
                progress.numerics = progress.numerics.max(numerics);
                let number = self.outcome.patches;
                log::debug!("#{number} {}: {note}", progress.name);
                if let Some(graph) = model.graph_at(path) {
                    let pass = progress.name;
                    self.driver.observer.patch(&Patched { number, pass, note: &note, graph, applied: &applied });
                }
                self.outcome.stopped = self.driver.stop_after.is_some_and(|n| number >= n);
                Ok(Some(applied))
            }
            // Names of the interface, types that the file declares, operator sets that it imports and functions that it
            // defines decide this, which a rule need not look at.
            Err(
                e @ (PatchError::Interface { .. }
                | PatchError::Type { .. }
                | PatchError::Import { .. }
                | PatchError::Shadowed { .. }),
            ) => {
                if let (Some(id), Some(graph)) = (root, model.graph_at(path)) {
                    self.refuse(graph, id, &Skip::because(e.to_string()), progress);
                }
                Ok(None)
            }
            Err(e) => Err(DriverError::Illegal { pass: progress.name, note, source: Box::new(e) }),
        }
    }

    fn refuse(&self, graph: &Graph, id: NodeId, skip: &Skip, progress: &mut Progress) {
        let reason: &str = match skip {
            Skip::NoMatch => return,
            Skip::NearMiss(_) if !self.driver.observer.explains() => return,
            Skip::NearMiss(reason) => reason,
            Skip::Refused(reason) => {
                progress.refusals += 1;
                reason
            }
        };
        let Some(node) = graph.node(id) else { return };
        let node_name = match (node.name.as_str(), node.output(0)) {
            ("", Some(v)) => graph.name_of(v),
            (name, _) => name.to_owned(),
        };
        log::trace!("{}: {node_name} ({}): {reason}", progress.name, node.op);
        self.driver.observer.refusal(&Refusal {
            pass: progress.name,
            node: node_name,
            op: node.op.to_string(),
            outputs: node.outputs().iter().flatten().map(|&v| graph.name_of(v)).collect(),
            reason: reason.to_owned(),
        });
    }
}
