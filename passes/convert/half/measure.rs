//! What calibration samples say about the range of values.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Def, Graph, Model, Node, NodeId, Operand, Tensor, Use, ValueId};

use super::{format::Format, select::is_f32, sums};
use crate::{
    Context, PassError,
    calibration::{Statistic, Want},
};

/// The numbers that one value took on all samples.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Extent {
    /// How many finite numbers.
    pub(super) numbers: u64,
    /// The largest finite magnitude.
    pub(super) largest: f32,
    /// How many of them would become infinite.
    pub(super) overflow: u64,
    /// How many, zeros apart, would become zero.
    pub(super) flushed: u64,
    /// How many would keep fewer bits than the format has.
    pub(super) subnormal: u64,
    /// Sums of squares: of the numbers, and of their errors by rounding, as far as they do not overflow.
    signal: f64,
    noise: f64,
}

impl Extent {
    /// Takes in the numbers of a float tensor; others are left out.
    pub(super) fn add(&mut self, tensor: &Tensor, format: Format) {
        let Ok(numbers) = tensor.iter_f32() else { return };
        for v in numbers.filter(|v| v.is_finite()) {
            let rounded = format.round(v);
            self.numbers += 1;
            self.largest = self.largest.max(v.abs());
            if rounded.is_infinite() {
                self.overflow += 1;
                continue;
            }
            self.flushed += u64::from(rounded == 0.0 && v != 0.0);
            self.subnormal += u64::from(rounded != 0.0 && v.abs() < format.min_normal());
            let error = f64::from(v) - f64::from(rounded);
            self.signal += f64::from(v) * f64::from(v);
            self.noise += error * error;
        }
    }

    /// Takes in what another extent holds.
    pub(super) fn merge(&mut self, other: &Extent) {
        self.numbers += other.numbers;
        self.largest = self.largest.max(other.largest);
        self.overflow += other.overflow;
        self.flushed += other.flushed;
        self.subnormal += other.subnormal;
        self.signal += other.signal;
        self.noise += other.noise;
    }

    /// Power of the numbers over power of their rounding errors, in dB; infinite where nothing is lost.
    pub(super) fn sqnr(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }

    /// Mean square of the numbers.
    pub(super) fn power(&self) -> f64 {
        self.signal / self.numbers.max(1) as f64
    }

    /// Mean square of their rounding errors.
    pub(super) fn noise_power(&self) -> f64 {
        self.noise / self.numbers.max(1) as f64
    }

    /// Share of the numbers that keep fewer bits than the format has, or none.
    pub(super) fn tiny(&self) -> f64 {
        (self.flushed + self.subnormal) as f64 / self.numbers.max(1) as f64
    }
}

/// What was measured.
#[derive(Default)]
pub(super) struct Measured {
    /// By float value of the main graph: inputs, and what nodes make.
    pub(super) values: BTreeMap<ValueId, Extent>,
    /// By node that sums: the largest sum of magnitudes (or of squares) that it goes through.
    pub(super) sums: BTreeMap<NodeId, f32>,
    /// How many runs.
    pub(super) samples: usize,
}

impl Measured {
    /// The extent of a value, if it was measured and has numbers.
    pub(super) fn extent(&self, value: ValueId) -> Option<&Extent> {
        self.values.get(&value).filter(|e| e.numbers > 0)
    }
}

/// What is accumulated of one value.
struct Probe<'a> {
    format: Format,
    graph: &'a Graph,
    extent: Extent,
    /// Readers that add up its numbers, with the largest sum so far.
    sums: Vec<(NodeId, &'a Node, f32)>,
}

impl Statistic for Probe<'_> {
    fn add(&mut self, tensors: &[&Tensor]) -> Result<(), String> {
        for tensor in tensors {
            self.extent.add(tensor, self.format);
            for (_, node, largest) in &mut self.sums {
                *largest = largest.max(sums::largest(self.graph, node, tensor).unwrap_or(0.0));
            }
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        size_of::<Self>() as u64
    }
}

/// Runs the samples. Values in `except` are not looked at. Nothing is measured without calibration.
pub(super) fn measure(
    model: &Model,
    cx: &Context<'_>,
    format: Format,
    except: &BTreeSet<ValueId>,
) -> Result<Measured, PassError> {
    let Some(calibration) = cx.calibration else { return Ok(Measured::default()) };
    let graph = &model.graph;
    let is_wanted = |id: ValueId, def: &Def| match def {
        Def::Node { .. } | Def::Input { .. } => is_f32(graph, id) && !except.contains(&id),
        _ => false,
    };
    let adding = |user: Use| match user {
        Use::Node(id, Operand::Input(0)) => graph.node(id).filter(|n| sums::is_sum(n)).map(|n| (id, n, 0.0)),
        _ => None,
    };
    let probe = |id: ValueId| {
        let sums = graph.users(id).filter_map(adding).collect();
        Probe { format, graph, extent: Extent::default(), sums }
    };
    let wanted = graph.values().filter(|(id, v)| is_wanted(*id, v.def()));
    let (ids, wants): (Vec<ValueId>, Vec<_>) = wanted.map(|(id, v)| (id, Want::of(v.name(), probe(id)))).unzip();
    let mut measured = Measured { samples: calibration.samples.len(), ..Measured::default() };
    for (id, probe) in ids.into_iter().zip(calibration.collect(&[model], wants)?) {
        measured.values.insert(id, probe.extent);
        measured.sums.extend(probe.sums.into_iter().map(|(node, _, largest)| (node, largest)));
    }
    Ok(measured)
}

/// The extent of a constant.
pub(super) fn of_constant(graph: &Graph, value: ValueId, format: Format) -> Option<Extent> {
    let tensor = super::literals::constant(graph, value)?;
    let mut extent = Extent::default();
    extent.add(&tensor, format);
    Some(extent)
}
