use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// 2026-01-02 03:04:05.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_323_045)
}

fn template(source: &str) -> ChatTemplate {
    let special = vec![("bos_token".to_owned(), "<s>".to_owned())];
    ChatTemplate::new(vec![("default".to_owned(), source.to_owned())], special).unwrap()
}

fn conversation(turns: &[(&str, &str)]) -> Conversation {
    let message = |&(role, content): &(&str, &str)| Message {
        role: role.to_owned(),
        content: content.to_owned(),
        ..Message::default()
    };
    Conversation {
        messages: turns.iter().map(message).collect(),
        tools: None,
        add_generation_prompt: true,
        variables: serde_json::Map::new(),
    }
}

#[test]
fn renders_as_transformers_does() {
    let check = |source: &str, expected: &str| {
        let rendered = template(source).render(&conversation(&[("user", "Hi <b> ")]), now());
        assert_eq!(rendered.unwrap(), expected, "{source}");
    };
    check(
        "{{ bos_token }}{{ eos_token }}|{{ messages[0].content }}|",
        "<s>|Hi <b> |",
    );
    check(
        "{% for m in messages %}\n  {% if true %}\n{{ m['role'].upper() }}\n  {% endif %}\n{% endfor %}",
        "USER\n",
    );
    check(
        "{{ messages[0].content.strip() }}{{ messages[0]['content'].startswith('Hi') }}",
        "Hi <b>True",
    );
    check(
        "{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "01",
    );
    check(
        "{% generation %}{{ messages | length }}{%- endgeneration %}",
        "1",
    );
    check("{{ strftime_now('%d %b %Y') }}", "02 Jan 2026");
    check(
        "{{ tools is none }} {{ x is defined }} {{ add_generation_prompt }}",
        "True False True",
    );
}

#[test]
fn tojson_writes_as_python_does() {
    let check = |arguments: &str, expected: &str| {
        let source = format!("{{{{ tools | tojson{arguments} }}}}");
        let mut conversation = conversation(&[("user", "Hi")]);
        conversation.tools = Some(
            serde_json::json!({"z": [1, 2.5, true, null], "a": "<é>\n\u{1}'\"", "e": [], "m": {}}),
        );
        assert_eq!(
            template(&source).render(&conversation, now()).unwrap(),
            expected
        );
    };
    let flat = r#"{"z": [1, 2.5, true, null], "a": "<é>\n\u0001'\"", "e": [], "m": {}}"#;
    check("", flat);
    check("(ensure_ascii=false)", flat);
    check(
        "(indent=2)",
        "{\n  \"z\": [\n    1,\n    2.5,\n    true,\n    null\n  ],\n  \"a\": \"<é>\\n\\u0001'\\\"\",\n  \"e\": [],\n  \"m\": {}\n}",
    );
}

#[test]
fn refusal_is_the_clients_error_with_the_templates_words() {
    let check = |source: &str, words: &str| {
        let error = template(source)
            .render(&conversation(&[("user", "Hi")]), now())
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequest);
        assert_eq!(error.param.as_deref(), Some("messages"));
        assert!(error.message.contains(words), "{}", error.message);
    };
    check(
        "{{ raise_exception('roles must alternate') }}",
        "roles must alternate",
    );
    check("{{ 'x' + messages[0].nothing }}", "");
}

#[test]
fn developer_is_system_unless_the_template_knows_it() {
    let developer = conversation(&[("developer", "Be terse.")]);
    let plain = template("{{ messages[0].role }}");
    assert_eq!(plain.render(&developer, now()).unwrap(), "system");
    let knowing = template("{% if messages[0].role == 'developer' %}dev{% endif %}");
    assert_eq!(knowing.render(&developer, now()).unwrap(), "dev");
}

#[test]
fn tool_use_template_is_for_conversations_with_tools() {
    let named = ["default", "tool_use"].map(|name| (name.to_owned(), name.to_owned()));
    let templates = ChatTemplate::new(named.to_vec(), Vec::new()).unwrap();
    let mut conversation = conversation(&[("user", "Hi")]);
    assert_eq!(templates.render(&conversation, now()).unwrap(), "default");
    conversation.tools = Some(serde_json::json!([{"type": "function"}]));
    assert_eq!(templates.render(&conversation, now()).unwrap(), "tool_use");
}

#[test]
fn variables_reach_the_template_but_replace_nothing() {
    let mut conversation = conversation(&[("user", "Hi")]);
    conversation.variables =
        serde_json::from_str(r#"{"thinking": false, "messages": []}"#).unwrap();
    let source = "{{ thinking is false }} {{ messages | length }}";
    assert_eq!(
        template(source).render(&conversation, now()).unwrap(),
        "True 1"
    );
}

#[test]
fn broken_template_is_named_at_load() {
    let broken = vec![("default".to_owned(), "{% for %}".to_owned())];
    assert!(ChatTemplate::new(broken, Vec::new()).is_err());
}

/// Renderings of published templates by jinja2, where the shared data is there.
#[test]
fn published_templates_render_as_in_python() {
    let Some(shared) = std::env::var_os("KVASIR_SHARED_DATA") else {
        return;
    };
    let folder = PathBuf::from(shared).join("models/chat_templates");
    let golden = std::fs::read(folder.join("golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let mut rendered = 0;
    for (name, entry) in golden["templates"].as_object().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let mut source = std::fs::read_to_string(folder.join(file)).unwrap();
        if file.ends_with(".json") {
            let json: serde_json::Value = serde_json::from_str(&source).unwrap();
            source = json["chat_template"].as_str().unwrap().to_owned();
        }
        let special = entry["special"].as_object().unwrap().iter();
        let special =
            special.filter_map(|(key, text)| Some((key.clone(), text.as_str()?.to_owned())));
        let template =
            ChatTemplate::new(vec![("default".to_owned(), source)], special.collect()).unwrap();
        for (case, expected) in entry["render"].as_object().unwrap() {
            let conversation = golden_conversation(&golden["conversations"][case]);
            match (template.render(&conversation, now()), expected.as_str()) {
                (Ok(text), Some(expected)) => assert_eq!(text, expected, "{name} {case}"),
                (Err(_), None) => {}
                // To minijinja nothing is an empty list, to Python it is not one.
                (Ok(_), None) if expected["error"].as_str().unwrap().contains("'NoneType'") => {}
                (got, _) => panic!("{name} {case}: {got:?}, not {expected}"),
            }
            rendered += 1;
        }
    }
    assert_eq!(rendered, 72);
}

fn golden_conversation(json: &serde_json::Value) -> Conversation {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let message = |json: &serde_json::Value| Message {
        role: text(&json["role"]).unwrap(),
        content: text(&json["content"]).unwrap(),
        name: text(&json["name"]),
        reasoning_content: None,
        tool_calls: json.get("tool_calls").cloned(),
        tool_call_id: text(&json["tool_call_id"]),
    };
    Conversation {
        messages: json["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(message)
            .collect(),
        tools: json.get("tools").cloned(),
        add_generation_prompt: json["add_generation_prompt"].as_bool().unwrap_or(true),
        variables: serde_json::Map::new(),
    }
}
