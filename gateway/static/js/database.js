// Where conversations are kept: the browser's IndexedDB, or, where it has none for this page (a private window), memory.
// The tokens of a sample are kept beside its conversation, so an answer that grows is not written again with all the others.

const NAME = "tidegate";

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const completed = (transaction) =>
  new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });

const tokensOf = (id) => IDBKeyRange.bound([id], [id, []]); // keys are [conversation, sample]

class Stored {
  isKept = true;
  #database;

  constructor(database) {
    this.#database = database;
  }

  // [{id, mode, title, updated}], the newest first: from the index alone, without reading conversations.
  async list() {
    const index = this.#database.transaction("conversations").objectStore("conversations").index("list");
    const found = [];
    const request = index.openKeyCursor(null, "prev");
    for (let cursor; (cursor = await done(request)); cursor.continue()) {
      const [updated, mode, label] = cursor.key;
      found.push({ id: cursor.primaryKey, mode, label, updated });
    }
    return found;
  }

  // {record, tokens: Map of samples' ids}; null where there is none.
  async load(id) {
    const transaction = this.#database.transaction(["conversations", "tokens"]);
    const stored = transaction.objectStore("tokens");
    const [record, keys, values] = await Promise.all([
      done(transaction.objectStore("conversations").get(id)),
      done(stored.getAllKeys(tokensOf(id))),
      done(stored.getAll(tokensOf(id))),
    ]);
    return record ? { record, tokens: new Map(keys.map(([, sample], index) => [sample, values[index]])) } : null;
  }

  // `tokens`: [[sample's id, segments]]. Returns the new revision; null, and nothing is written, where another tab has saved it
  // since it was read here.
  async save(record, tokens) {
    const transaction = this.#database.transaction(["conversations", "tokens"], "readwrite");
    const conversations = transaction.objectStore("conversations");
    const before = await done(conversations.get(record.id));
    if (before && before.revision !== record.revision && before.writer !== record.writer) return null;
    const revision = (before?.revision ?? 0) + 1;
    conversations.put({ ...record, revision });
    for (const [sample, segments] of tokens) transaction.objectStore("tokens").put(segments, [record.id, sample]);
    await completed(transaction);
    return revision;
  }

  async remove(id) {
    const transaction = this.#database.transaction(["conversations", "tokens"], "readwrite");
    transaction.objectStore("conversations").delete(id);
    transaction.objectStore("tokens").delete(tokensOf(id));
    await completed(transaction);
  }
}

class Memory {
  isKept = false;
  #records = new Map();

  async list() {
    const records = [...this.#records.values()].map(({ record }) => record);
    return records.sort((one, other) => other.updated - one.updated);
  }

  async load(id) {
    return structuredClone(this.#records.get(id) ?? null);
  }

  async save(record, tokens) {
    const before = this.#records.get(record.id)?.tokens ?? [];
    this.#records.set(record.id, structuredClone({ record, tokens: new Map([...before, ...tokens]) }));
    return 1;
  }

  async remove(id) {
    this.#records.delete(id);
  }
}

export async function openDatabase() {
  try {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      const { result: database } = request;
      database.createObjectStore("conversations", { keyPath: "id" }).createIndex("list", ["updated", "mode", "label"]);
      database.createObjectStore("tokens");
    };
    return new Stored(await done(request));
  } catch {
    return new Memory();
  }
}
