//! Writes GGUF files.

/// A file that is being put together.
#[derive(Clone, Default)]
pub(super) struct File {
    pairs: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

impl File {
    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> File {
        let mut pair = text(key);
        pair.extend(kind.to_le_bytes());
        pair.extend(value);
        self.pairs.push(pair);
        self
    }

    fn list(self, key: &str, kind: u32, count: usize, values: Vec<u8>) -> File {
        let mut list = kind.to_le_bytes().to_vec();
        list.extend((count as u64).to_le_bytes());
        list.extend(values);
        self.pair(key, 9, &list)
    }

    pub(super) fn text(self, key: &str, value: &str) -> File {
        self.pair(key, 8, &text(value))
    }

    pub(super) fn unsigned(self, key: &str, value: u32) -> File {
        self.pair(key, 4, &value.to_le_bytes())
    }

    pub(super) fn float(self, key: &str, value: f32) -> File {
        self.pair(key, 6, &value.to_le_bytes())
    }

    pub(super) fn flag(self, key: &str, value: bool) -> File {
        self.pair(key, 7, &[value.into()])
    }

    pub(super) fn texts(self, key: &str, values: &[String]) -> File {
        let bytes = values.iter().flat_map(|value| text(value)).collect();
        self.list(key, 8, values.len(), bytes)
    }

    pub(super) fn integers(self, key: &str, values: &[u32]) -> File {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.list(key, 5, values.len(), bytes)
    }

    pub(super) fn floats_list(self, key: &str, values: &[f32]) -> File {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.list(key, 6, values.len(), bytes)
    }

    pub(super) fn tensor(mut self, name: &str, shape: &[u64], kind: u32, bytes: usize) -> File {
        self.tensors
            .push((name.to_owned(), shape.to_vec(), kind, vec![0; bytes]));
        self
    }

    pub(super) fn floats(mut self, name: &str, shape: &[u64], values: &[f32]) -> File {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.tensors
            .push((name.to_owned(), shape.to_vec(), 0, bytes));
        self
    }

    pub(super) fn done(self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.pairs.len() as u64).to_le_bytes());
        file.extend(self.pairs.concat());
        let mut data = Vec::new();
        for (name, shape, kind, bytes) in &self.tensors {
            file.extend(text(name));
            file.extend((shape.len() as u32).to_le_bytes());
            file.extend(shape.iter().flat_map(|size| size.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
        file
    }
}

/// A model of one layer with hardly any weights.
pub(super) fn model(architecture: &str) -> File {
    let embeddings: Vec<f32> = (0..192).map(|i| i as f32).collect();
    let key = |name: &str| format!("{architecture}.{name}");
    File::default()
        .text("general.architecture", architecture)
        .unsigned(&key("embedding_length"), 32)
        .unsigned(&key("feed_forward_length"), 64)
        .unsigned(&key("block_count"), 1)
        .unsigned(&key("attention.head_count"), 4)
        .unsigned(&key("attention.head_count_kv"), 2)
        .unsigned(&key("context_length"), 128)
        .float(&key("rope.freq_base"), 500_000.0)
        .float(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .unsigned("tokenizer.ggml.bos_token_id", 1)
        .unsigned("tokenizer.ggml.eos_token_id", 2)
        .floats("token_embd.weight", &[32, 6], &embeddings)
}
