//! What a node does with factors on its operands.

use planish_ir::{
    DType, Graph, Node, NodeId, ValueId,
    axes::Port::{self, In, Out},
    infer::{GraphFacts, Num},
    op,
};

/// What has to hold of the factors on a node's operands, so that it computes the same up to these factors. Operands that no
/// relation names have the factor one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Relation {
    /// All have the same factor at the same index.
    Equal { ports: Vec<Port>, indices: Indices },
    /// A weight takes up both factors: it is divided by that of the data and multiplied with that of the result.
    Weighted { data: Port, weight: Port, result: Port },
    /// The factors of two operands are inverse to each other along what is summed over.
    Inverse([Port; 2]),
    /// The result's factor is the product of the operands'. One that is known decides about the others.
    Product { operands: [Port; 2], result: Port },
    /// A constant whose size tells how large the results are.
    Gain(Port),
}

/// Along which indices factors may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Indices {
    /// Those whose results do not depend on each other.
    Free,
    /// Also those that are summed over.
    Contracted,
    /// All that are tied: the operator multiplies elements with each other.
    Tied,
}

/// The relations of a node, or why its operands keep their factors.
pub(super) fn relations(
    graph: &Graph,
    facts: &GraphFacts,
    opset: i64,
    node: &Node,
) -> Result<Vec<Relation>, &'static str> {
    if op::of(node).is_none() {
        return Err("the operator is not known");
    }
    if node.attrs.has_graphs() {
        return Err("it has subgraphs");
    }
    let together = |inputs: &[usize]| {
        let inputs = inputs.iter().filter(|&&i| node.input(i).is_some()).map(|&i| In(i));
        let outputs = (0..node.outputs().len()).filter(|&i| node.output(i).is_some()).map(Out);
        Ok(vec![Relation::Equal { ports: inputs.chain(outputs).collect(), indices: Indices::Free }])
    };
    let first_output = |inputs: &[usize]| equal(node, inputs, Indices::Free);
    let all: Vec<usize> = (0..node.inputs().len()).collect();
    match (node.op.domain.as_str(), node.op.name.as_str()) {
        (
            "",
            "Relu" | "LeakyRelu" | "PRelu" | "Abs" | "Neg" | "Identity" | "Reshape" | "Flatten" | "Transpose"
            | "Squeeze" | "Unsqueeze" | "Slice" | "Split" | "Expand" | "Tile" | "DepthToSpace" | "SpaceToDepth"
            | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" | "ReduceSum" | "ReduceMax"
            | "ReduceMin" | "ReduceL1" | "ReduceL2" | "Trilu" | "CumSum",
        ) => together(&[0]),
        ("", "MaxPool" | "Dropout") => match node.op.is("Dropout") && trains(graph, node, opset) {
            true => Err("it drops elements in training"),
            false => Ok(vec![first_output(&[0])]),
        },
        ("", "Gather" | "GatherElements" | "GatherND") => {
            let mut found = vec![first_output(&[0])];
            if is_weight(graph, node, 0) {
                found.push(Relation::Gain(In(0)));
            }
            Ok(found)
        }
        ("", "Resize" | "Upsample") => {
            match node.attrs.str("coordinate_transformation_mode") == Some("tf_crop_and_resize") {
                true => Err("it extrapolates with a constant"),
                false => together(&[0]),
            }
        }
        ("", "Pad") => {
            let constant = node.attrs.str("mode").is_none_or(|m| m == "constant");
            let zero = match opset < 11 {
                true => node.attrs.float("value").unwrap_or(0.0) == 0.0,
                false => node.input(2).is_none_or(|v| is_number(facts, v, 0.0)),
            };
            if constant && zero { together(&[0]) } else { Err("it pads with something else than zeros") }
        }
        ("", "Clip") => {
            let (least, most) = match opset < 11 {
                true => (node.attrs.float("min") == Some(0.0), node.attrs.float("max").is_some_and(|m| m < f32::MAX)),
                false => (node.input(1).is_some_and(|v| is_number(facts, v, 0.0)), node.input(2).is_some()),
            };
            match (least, most) {
                (true, false) => together(&[0]),
                (_, true) => Err("its upper bound would cut scaled values elsewhere"),
                (false, false) => Err("its lower bound would cut scaled values elsewhere"),
            }
        }
        ("", "Add" | "Sub" | "Sum" | "Mean" | "Max" | "Min" | "Concat") => together(&all),
        ("", "Where") => together(&[1, 2]),
        ("", "Conv" | "ConvTranspose" | "Gemm") => {
            let weight = weight(graph, node, 1)?;
            let mut found = vec![Relation::Weighted { data: In(0), weight, result: Out(0) }];
            if node.input(2).is_some() {
                found.push(first_output(&[2]));
            }
            Ok(found)
        }
        ("", "MatMul" | "Mul") => product(graph, node),
        ("", "Attention") | ("com.microsoft", "MultiHeadAttention") => {
            let alone = |slots: &[Option<ValueId>], from: usize| slots.iter().skip(from).all(Option::is_none);
            let plain = match node.op.domain.is_empty() {
                true => alone(node.inputs(), 4),
                false => node.input(3).is_none() && alone(node.inputs(), 6),
            };
            match plain && alone(node.outputs(), 1) && (0..3).all(|i| node.input(i).is_some()) {
                true => Ok(vec![first_output(&[2]), Relation::Inverse([In(0), In(1)])]),
                false => Err("it has a bias or a cache of its own"),
            }
        }
        ("", "Div") => Ok(vec![first_output(&[0])]),
        ("", "BatchNormalization") => {
            if trains(graph, node, opset) || node.outputs().iter().skip(1).any(Option::is_some) {
                return Err("it computes statistics in training");
            }
            let weight = weight(graph, node, 1)?;
            Ok(vec![
                Relation::Weighted { data: In(0), weight, result: Out(0) },
                equal(node, &[2], Indices::Tied),
                Relation::Equal { ports: vec![In(0), In(3)], indices: Indices::Tied },
            ])
        }
        (
            "",
            "LayerNormalization"
            | "RMSNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "SimplifiedLayerNormalization",
        ) => Ok(vec![equal(node, &[1, 2], Indices::Tied), Relation::Gain(In(1))]),
        ("com.microsoft", "SkipLayerNormalization") => {
            Ok(vec![equal(node, &[2, 3], Indices::Tied), Relation::Gain(In(2))])
        }
        ("com.microsoft", "SkipSimplifiedLayerNormalization") => {
            Ok(vec![equal(node, &[2], Indices::Tied), Relation::Gain(In(2))])
        }
        _ => Err("it is not proportional to its input"),
    }
}

/// These inputs, as far as they are there, and the first output.
fn equal(node: &Node, inputs: &[usize], indices: Indices) -> Relation {
    let inputs = inputs.iter().filter(|&&i| node.input(i).is_some()).map(|&i| In(i));
    Relation::Equal { ports: inputs.chain([Out(0)]).collect(), indices }
}

/// Factors of a constant with one axis, or of the weight of a MatMul, can differ from those of the data.
fn product(graph: &Graph, node: &Node) -> Result<Vec<Relation>, &'static str> {
    let is_matmul = node.op.is("MatMul");
    let constant = |slot: usize| node.input(slot).and_then(|v| graph.constant(v));
    for (data, slot) in [(0, 1), (1, 0)] {
        let Some(tensor) = constant(slot) else { continue };
        let long = tensor.dims().iter().filter(|&&d| d != 1).count();
        return match is_matmul || (long == 1 && weight(graph, node, slot).is_ok()) {
            true => {
                let weight = weight(graph, node, slot)?;
                let mut found = vec![Relation::Weighted { data: In(data), weight, result: Out(0) }];
                if !is_matmul {
                    found.push(Relation::Gain(weight));
                }
                Ok(found)
            }
            false => Ok(vec![equal(node, &[data], Indices::Free)]),
        };
    }
    Ok(vec![Relation::Product { operands: [In(0), In(1)], result: Out(0) }])
}

/// The slot of a weight that can be changed, or why it cannot.
fn weight(graph: &Graph, node: &Node, slot: usize) -> Result<Port, &'static str> {
    match node.input(slot) {
        Some(v) if graph.constant(v).is_none() => Err("its weight is no constant"),
        Some(v) if graph.users(v).len() > 1 => Err("its weight has other readers, which would need a copy"),
        Some(_) if is_weight(graph, node, slot) => Ok(In(slot)),
        _ => Err("its weight is of a type that cannot be scaled"),
    }
}

fn is_weight(graph: &Graph, node: &Node, slot: usize) -> bool {
    let floats = |t: &planish_ir::Tensor| matches!(t.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64);
    graph.constant_input(node, slot).is_some_and(|t| floats(t) && t.elements() > 0)
}

fn is_number(facts: &GraphFacts, value: ValueId, number: f64) -> bool {
    let same = |n: &Num| match n {
        Num::Float(x) => *x == number,
        n => n.int().is_some_and(|i| i as f64 == number),
    };
    matches!(facts.value(value), Some([n]) if same(n))
}

/// True unless the node provably computes as in inference.
fn trains(graph: &Graph, node: &Node, opset: i64) -> bool {
    if node.op.is("BatchNormalization") {
        return match opset >= 14 {
            true => node.attrs.int("training_mode").unwrap_or(0) != 0,
            false => {
                node.attrs.int("spatial").unwrap_or(1) == 0
                    || (opset < 7 && node.attrs.int("is_test").unwrap_or(0) == 0)
            }
        };
    }
    match opset >= 12 {
        true => node.input(2).is_some_and(|v| graph.constant(v).and_then(|t| t.single_i64()) != Some(0)),
        false => opset < 7 && node.attrs.int("is_test").unwrap_or(0) == 0,
    }
}

/// The operands that a relation is about.
pub(super) fn ports(relation: &Relation) -> Vec<Port> {
    match relation {
        Relation::Equal { ports, .. } => ports.clone(),
        Relation::Inverse(ports) => ports.to_vec(),
        Relation::Weighted { data, weight, result } => vec![*data, *weight, *result],
        Relation::Product { operands: [a, b], result } => vec![*a, *b, *result],
        Relation::Gain(port) => vec![*port],
    }
}

/// A node as messages name it.
pub(super) fn label(graph: &Graph, id: NodeId) -> String {
    graph.node(id).map_or_else(
        || id.to_string(),
        |n| match (n.name.as_str(), n.output(0)) {
            ("", Some(made)) => format!("the {} that makes {:?}", n.op, graph.name_of(made)),
            (name, _) => format!("the {} {name:?}", n.op),
        },
    )
}
