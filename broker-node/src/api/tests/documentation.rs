//! The documentation and the code name the same things.

use api_types::Reason;

const API: &str = include_str!("../../../../docs/api.md");

#[test]
fn every_reason_is_explained_with_its_status() {
    for reason in Reason::ALL {
        let row = format!("| `{}` | {} |", reason.as_str(), reason.http_status());
        assert!(API.contains(&row), "docs/api.md lacks the row {row}");
    }
    let rows = API.lines().filter(|line| {
        line.strip_prefix("| `")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()) && rest.contains("` | "))
            && line.split('|').nth(2).is_some_and(|cell| cell.trim().parse::<u16>().is_ok())
    });
    assert_eq!(rows.count(), Reason::ALL.len(), "docs/api.md explains a reason that does not exist");
}

#[test]
fn every_route_is_described() {
    let routes = include_str!("../mod.rs").lines().filter_map(|line| line.split(".route(\"").nth(1));
    let mut count = 0;
    for path in routes.filter_map(|rest| rest.split('"').next()) {
        assert!(API.contains(path), "docs/api.md lacks {path}");
        count += 1;
    }
    assert!(count >= 12, "{count}");
}

#[test]
fn every_field_of_a_row_is_described() {
    for field in super::super::ROW_FIELDS {
        assert!(API.contains(&format!("`{field}`")), "docs/api.md lacks {field}");
    }
}
