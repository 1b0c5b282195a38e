import type { ScalarTag } from 'yaml';

/** YAML 1.1's octal integers: Go's YAML libraries, which CDI's vendors use, read `fileMode: 0666` as 438. */
const OCTAL: ScalarTag = {
  tag: 'tag:yaml.org,2002:int',
  default: true,
  test: /^0[0-7]+$/,
  resolve: (text) => Number.parseInt(text, 8),
};

/** An alias expands to what its anchor names, so nested aliases could make gigabytes of a small file. */
const MAX_ALIASES = 100;

/**
 * Parses one YAML 1.2 document (core schema) that may contain YAML 1.1's octal integers. Returns plain data; null for
 * an empty document. Rejects with an Error for wrong syntax, duplicate keys, an unknown tag, a second document and
 * excessive aliases.
 */
export async function parseYaml(text: string): Promise<unknown> {
  // Imported on first use: the library costs 30 ms and 13 MiB, and most nodes have no CDI file in YAML.
  const { isScalar, parseDocument, visit } = await import('yaml');
  const document = parseDocument(text, {
    customTags: (tags) => [OCTAL, ...tags],
    logLevel: 'error', // by default the library passes warnings to process.emitWarning
    uniqueKeys: false, // the library compares every key with every other: minutes for a file of 1 MiB
  });
  const [problem] = [...document.errors, ...document.warnings];
  if (problem !== undefined) throw problem;
  visit(document, {
    Map(_index, map) {
      const keys = new Set<string>();
      for (const { key } of map.items) {
        const name = String(isScalar(key) ? key.value : key);
        if (keys.has(name)) throw new SyntaxError(`duplicate key "${name}"`);
        keys.add(name);
      }
    },
  });
  return document.toJS({ maxAliasCount: MAX_ALIASES });
}
