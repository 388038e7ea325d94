//! Sums inside operators, which may leave the range of float16 although neither inputs nor results do.
//!
//! A mean is a sum first, a norm or a variance a sum of squares. ONNX says of `LayerNormalization`, `RMSNormalization`
//! and `GroupNormalization` that they compute their statistics in float32 (`stash_type`); all others add in the type of
//! their input, as far as the standard goes, and a runtime may do so.

use planish_ir::{Graph, Node, Tensor};

/// What an operator adds up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Terms {
    /// Magnitudes.
    Magnitudes,
    /// Squares.
    Squares,
}

/// How an operator adds up numbers of its first input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Summing {
    terms: Terms,
    over: Over,
    /// By its definition in float32, whatever the type of the input.
    in_float32: bool,
}

/// Which axes are summed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Over {
    /// Those that `axes` names, as attribute or second input; all without it.
    Named,
    /// The one that `axis` names; the last without it.
    One,
    /// From `axis` on; the last one without it.
    From,
    /// All behind the channels.
    Spatial,
    /// Channels of a group, and all behind them.
    Groups,
}

fn summing(node: &Node) -> Option<Summing> {
    use Terms::{Magnitudes, Squares};
    if !node.op.domain.is_empty() {
        return None;
    }
    let (terms, over) = match node.op.name.as_str() {
        "ReduceL1" | "ReduceLogSum" | "ReduceMean" | "ReduceSum" => (Magnitudes, Over::Named),
        "ReduceL2" | "ReduceSumSquare" | "MeanVarianceNormalization" => (Squares, Over::Named),
        "GlobalAveragePool" => (Magnitudes, Over::Spatial),
        "GlobalLpPool" | "InstanceNormalization" => (Squares, Over::Spatial),
        "LpNormalization" => (Squares, Over::One),
        "LayerNormalization" | "RMSNormalization" => (Squares, Over::From),
        "GroupNormalization" => (Squares, Over::Groups),
        _ => return None,
    };
    let stashes = matches!(over, Over::From | Over::Groups) && node.attrs.int("stash_type").unwrap_or(1) == 1;
    Some(Summing { terms, over, in_float32: stashes })
}

/// True for an operator that adds up numbers of its first input.
pub(super) fn is_sum(node: &Node) -> bool {
    summing(node).is_some()
}

/// What it adds up, and true if it does so in float32 by definition.
pub(super) fn terms(node: &Node) -> Option<(Terms, bool)> {
    summing(node).map(|s| (s.terms, s.in_float32))
}

/// The largest of the sums for an input; `None` if the axes are not known. No partial sum is larger, in any order.
pub(super) fn largest(graph: &Graph, node: &Node, input: &Tensor) -> Option<f32> {
    let s = summing(node)?;
    let mut dims: Vec<usize> = input.dims().iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    let axes = match s.over {
        Over::Named => named(graph, node, dims.len())?,
        Over::One | Over::From => {
            let axis = resolve(node.attrs.int("axis").unwrap_or(-1), dims.len())?;
            if s.over == Over::One { vec![axis] } else { (axis..dims.len()).collect() }
        }
        Over::Spatial => (2..dims.len()).collect(),
        Over::Groups => {
            let groups = usize::try_from(node.attrs.int("num_groups")?).ok().filter(|&g| g > 0)?;
            let (batch, rest) = dims.split_first()?;
            dims = vec![*batch, groups, rest.iter().product::<usize>() / groups];
            vec![2]
        }
    };
    // By kept axis: distance of neighbours in the input, size, distance in the result.
    let mut kept = Vec::new();
    let (mut distance, mut results) = (1usize, 1usize);
    for (axis, &size) in dims.iter().enumerate().rev() {
        if !axes.contains(&axis) {
            kept.push((distance, size, results));
            results = results.checked_mul(size)?;
        }
        distance = distance.checked_mul(size)?;
    }
    let mut sums = vec![0f32; results];
    for (i, v) in input.iter_f32().ok()?.enumerate() {
        let at: usize = kept.iter().map(|(distance, size, to)| i / distance % size * to).sum();
        if let Some(sum) = sums.get_mut(at) {
            *sum += match s.terms {
                Terms::Magnitudes => v.abs(),
                Terms::Squares => v * v,
            };
        }
    }
    Some(sums.into_iter().filter(|v| !v.is_nan()).fold(0.0, f32::max))
}

fn named(graph: &Graph, node: &Node, rank: usize) -> Option<Vec<usize>> {
    let given = match (node.attrs.ints("axes"), node.input(1)) {
        (Some(axes), _) => Some(axes.to_vec()),
        (None, Some(axes)) => Some(crate::clean::constant_of(graph, axes)?.to_i64().ok()?),
        (None, None) if node.op.is("MeanVarianceNormalization") => Some(vec![0, 2, 3]),
        (None, None) => None,
    };
    match given.filter(|axes| !axes.is_empty()) {
        Some(axes) => axes.into_iter().map(|a| resolve(a, rank)).collect(),
        None if node.attrs.int("noop_with_empty_axes") == Some(1) => Some(Vec::new()),
        None => Some((0..rank).collect()),
    }
}

fn resolve(axis: i64, rank: usize) -> Option<usize> {
    let from_front = if axis < 0 { axis.checked_add_unsigned(rank as u64)? } else { axis };
    usize::try_from(from_front).ok().filter(|&a| a < rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest_of(node: &str, dims: &[u64], values: &[f32]) -> Option<f32> {
        let text = format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N] x, float s) => (float y) {{ y = {node} }}"#
        );
        let model = planish_ir::text::parse(&text).unwrap();
        let (_, node) = model.graph.nodes().next().unwrap();
        largest(&model.graph, node, &Tensor::from_f32(dims, values).unwrap())
    }

    #[test]
    fn sums_go_over_the_axes_of_the_operator() {
        let x = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0];
        assert_eq!(largest_of("ReduceMean <axes = [-1]> (x)", &[2, 4], &x), Some(26.0));
        assert_eq!(largest_of("ReduceMean <axes = [0]> (x)", &[2, 4], &x), Some(12.0));
        assert_eq!(largest_of("ReduceSum (x)", &[2, 4], &x), Some(36.0));
        assert_eq!(largest_of("ReduceSum <noop_with_empty_axes = 1> (x)", &[2, 4], &x), Some(8.0));
        assert_eq!(largest_of("GlobalAveragePool (x)", &[1, 2, 2, 2], &x), Some(26.0));
        assert_eq!(largest_of("ReduceL2 <axes = [1]> (x)", &[4, 2], &x), Some(113.0));
        assert_eq!(largest_of("LayerNormalization <axis = -2> (x, s)", &[2, 2, 2], &x), Some(174.0));
        assert_eq!(largest_of("GroupNormalization <num_groups = 2> (x, s, s)", &[1, 4, 2], &x), Some(174.0));
        assert_eq!(largest_of("ReduceMean <axes = [5]> (x)", &[2, 4], &x), None);
        assert_eq!(largest_of("Relu (x)", &[2, 4], &x), None);
    }
}
