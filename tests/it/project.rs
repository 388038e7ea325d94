//! The project itself: layers, generated text, fixtures.

use std::{collections::BTreeSet, fs};

use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::support::{fixture, root};

/// Names of the packages that `package` reaches through normal dependencies.
fn reaches(package: &str) -> BTreeSet<String> {
    let metadata = MetadataCommand::new().current_dir(root()).other_options(vec!["--locked".into()]).exec().unwrap();
    let resolve = metadata.resolve.as_ref().unwrap();
    let id = |name: &str| metadata.packages.iter().find(|p| p.name.as_str() == name).map(|p| p.id.clone());
    let mut found = BTreeSet::new();
    let mut work = vec![id(package).unwrap_or_else(|| panic!("there is no package {package}"))];
    while let Some(id) = work.pop() {
        let node = resolve.nodes.iter().find(|n| n.id == id).unwrap();
        for dep in &node.deps {
            let normal = dep.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal);
            let name = metadata[&dep.pkg].name.to_string();
            if normal && found.insert(name) {
                work.push(dep.pkg.clone());
            }
        }
    }
    found
}

#[test]
fn layers_reach_only_what_is_below_them() {
    let passes = reaches("planish-passes");
    assert!(passes.contains("planish-ir"));
    for above in ["planish", "tract-onnx", "tract-core", "clap", "ort", "indicatif"] {
        assert!(!passes.contains(above), "planish-passes reaches {above}");
    }
    let ir = reaches("planish-ir");
    assert!(ir.contains("planish-proto"));
    assert!(!ir.contains("planish-passes") && !ir.contains("rayon"));
    let proto = reaches("planish-proto");
    assert!(!proto.contains("planish-ir") && !proto.contains("petgraph"));
    assert!(reaches("planish").contains("tract-onnx"), "the test would pass on anything");
}

#[test]
fn passes_do_not_name_the_wire_types_or_the_graph_library() {
    let metadata = MetadataCommand::new().current_dir(root()).no_deps().exec().unwrap();
    let passes = metadata.packages.iter().find(|p| p.name.as_str() == "planish-passes").unwrap();
    for direct in &passes.dependencies {
        assert!(!["planish-proto", "prost", "petgraph"].contains(&direct.name.as_str()), "{}", direct.name);
    }
}

#[test]
fn the_list_of_passes_in_the_readme_is_fresh() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let expected = planish::commands::passes::markdown();
    assert!(readme.contains(&expected), "README.md should contain:\n{expected}");
}

#[test]
fn fixtures_are_listed_and_small() {
    let manifest = fs::read_to_string(fixture("manifest.toml")).unwrap();
    let mut bytes = 0;
    for folder in ["models", "data"] {
        for entry in fs::read_dir(fixture(folder)).unwrap() {
            let entry = entry.unwrap();
            bytes += entry.metadata().unwrap().len();
            let path = format!("path = \"{folder}/{}\"", entry.file_name().to_string_lossy());
            assert!(manifest.contains(&path), "manifest.toml lacks {path}");
        }
    }
    assert!(bytes < 12_000_000, "the fixtures have grown to {bytes} bytes");
}

#[test]
fn every_preset_and_example_is_valid() {
    for entry in fs::read_dir(fixture("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        planish::pipeline::Pipeline::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}
