//! Letting the results of an inlined graph take the place of its owner's outputs.

use planish_ir::{Def, Graph, Node, NodeId, OpName, Patch, Ref, Type};

use crate::Skip;

/// What takes the place of an output.
#[derive(Clone, Copy)]
pub(super) struct Heir {
    value: Ref,
    /// It can take over the name of an output of the graph.
    nameable: bool,
}

impl Heir {
    /// Something that is there already, or that several outputs may share.
    pub(super) const fn shared(value: Ref) -> Heir {
        Heir { value, nameable: false }
    }

    /// A value that the patch makes for this output alone.
    pub(super) const fn own(value: Ref) -> Heir {
        Heir { value, nameable: true }
    }

    /// Outputs of a graph that the patch inlines, in their order.
    pub(super) fn of(body: &Graph, refs: Vec<Ref>) -> Vec<Heir> {
        let outputs = body.outputs();
        let heir = |(&v, value): (_, Ref)| {
            let made = body.value(v).is_some_and(|v| matches!(v.def(), Def::Node { .. } | Def::Constant(_)));
            let once = body.value(v).is_some_and(|v| v.users().iter().filter(|u| is_output(u)).count() == 1);
            Heir { value, nameable: made && once }
        };
        outputs.iter().zip(refs).map(heir).collect()
    }
}

fn is_output(user: &planish_ir::Use) -> bool {
    matches!(user, planish_ir::Use::Output(_))
}

/// Every reader of an output of the node reads its heir instead, and the node goes. Where the interface needs the name
/// of the output and the heir cannot have it, an `Identity` stands between them.
pub(super) fn hand_over(
    patch: &mut Patch,
    (graph, opset): (&Graph, i64),
    id: NodeId,
    node: &Node,
    heirs: &[Heir],
) -> Result<(), Skip> {
    for (output, heir) in node.outputs().iter().zip(heirs) {
        let Some(output) = *output else { continue };
        let mut value = heir.value;
        if graph.is_output(output) && !heir.nameable {
            let ty = graph.ty(output).cloned();
            // Identity takes sequences from opset 14 on and optionals from 16 on.
            if opset < 16 && !matches!(ty, Some(Type::Tensor(_))) {
                let name = graph.name_of(output);
                return Err(Skip::because(format!("its output {name:?} is an output of the graph and no tensor")));
            }
            value = patch.node(OpName::onnx("Identity"), [Some(value)]).output(graph.name_of(output), ty);
        }
        patch.replace(output, value);
    }
    patch.remove_node(id);
    Ok(())
}
