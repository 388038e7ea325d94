use super::*;
use crate::InMemory;

/// Casts for a set of nodes in float32, counted anew.
fn casts(graph: &Graph, full: &dyn Fn(NodeId) -> bool) -> usize {
    let values = graph.values().filter(|(v, _)| {
        let made_full = graph.producer(*v).is_none_or(|(id, _)| full(id));
        graph.users(*v).any(|u| match u {
            Use::Node(id, _) => full(id) != made_full,
            Use::Output(_) => !made_full,
        })
    });
    values.count()
}

/// All choices for small random graphs.
#[test]
fn no_choice_has_fewer_casts() {
    let mut state = 11u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for _ in 0..200 {
        let mut values = vec!["x".to_owned(), "z".to_owned()];
        let (mut nodes, mut keep) = (String::new(), Vec::new());
        for i in 0..7 {
            let mut any = || values[random(values.len() as u64) as usize].clone();
            let (a, b) = (any(), any());
            match random(2) {
                0 => nodes += &format!("[n{i}] v{i} = Tanh ({a})\n"),
                _ => nodes += &format!("[n{i}] v{i} = Add ({a}, {b})\n"),
            }
            values.push(format!("v{i}"));
            if random(3) == 0 {
                keep.push(format!("n{i}"));
            }
        }
        let text = format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[4] x, float[4] z) => (float[4] v5, float[4] v6) {{ {nodes} }}"#
        );
        let mut model = planish_ir::text::parse(&text).unwrap();
        planish_ir::infer::annotate(&mut model);
        let graph = &model.graph;
        let settings =
            Settings { format: Format::Float16, keep: &keep, interface: InterfaceTypes::Keep, headroom: 2.0 };
        let literals = super::super::literals::literals(graph, &InMemory, Format::Float16);
        let selection = Selection::new(&model, &settings, &literals, &Measured::default(), &|_| None);
        let found = casts(graph, &|id| selection.half(id).is_none());
        assert_eq!(found, selection.casts(), "{text}");
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let kept = |i: usize| graph.node(ids[i]).is_some_and(|n| keep.contains(&n.name));
        let choices = (0..1u32 << ids.len()).filter(|c| (0..ids.len()).all(|i| !kept(i) || c >> i & 1 == 1));
        let best =
            choices.map(|c| casts(graph, &|id| ids.iter().position(|n| *n == id).is_some_and(|i| c >> i & 1 == 1)));
        assert_eq!(Some(found), best.min(), "{text}{keep:?}");
    }
}
