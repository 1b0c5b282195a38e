import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';
import { PAGES, renewPage } from '../../scripts/doc-tables.ts';
import { generatedFiles } from '../../scripts/docs.ts';
import { ROOT } from '../rig/paths.ts';

const read = (path: string) => readFileSync(join(ROOT, path), 'utf8');
const DOCUMENTS = ['*.md', 'docs/**/*.md', 'grafana/*.md'].flatMap((glob) => globSync(glob, { cwd: ROOT })).sort();

test('pages and dashboards are what `npm run docs` makes', () => {
  const files = generatedFiles();
  assert.ok(files.size > 8, `${files.size} generated files`);
  for (const [path, text] of files) assert.ok(read(path) === text, `${path} differs; run: npm run docs`);
  const dashboards = globSync('grafana/dashboards/*.json', { cwd: ROOT });
  for (const path of dashboards) assert.ok(files.has(path), `${path} is made by nothing`);
});

test('a table that was edited by hand is found, and the prose around it stays', () => {
  for (const path of PAGES) {
    const text = read(path);
    const edited = `${text.replace(/(<!-- ([^/].*?) -->\n)[\s\S]*?(<!-- \/\2 -->)/, '$1\nby hand\n\n$3')}\nnew prose\n`;
    assert.ok(edited.includes('by hand'), path);
    assert.ok(renewPage(path, edited) === `${text}\nnew prose\n`, path);
  }
  assert.throws(() => renewPage('docs/operate/errors.md', 'no markers'), /lacks the markers of "errors"/);
});

/** Anchors as GitHub makes them from headings. */
function anchorsOf(path: string): Set<string> {
  const heads = [...read(path).matchAll(/^#+ (.+)$/gm)].map(([, head = '']) => head.toLowerCase());
  return new Set(heads.map((head) => head.replaceAll(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-')));
}

test('links between documents lead somewhere', () => {
  let links = 0;
  for (const document of DOCUMENTS) {
    for (const [, target = ''] of read(document).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const [file = '', anchor] = target.split('#');
      const path = file === '' ? document : normalize(join(dirname(document), file));
      assert.ok(existsSync(join(ROOT, path)), `${document} links to ${target}`);
      if (anchor !== undefined) assert.ok(anchorsOf(path).has(anchor), `${document} links to ${target}`);
      links++;
    }
  }
  assert.ok(links > 30, `${links} links found`);
});

test('every page below docs/ is in its index', () => {
  const index = read('docs/index.md');
  for (const page of DOCUMENTS.filter((path) => /^docs\/\w+\//.test(path))) {
    assert.ok(index.includes(`](${page.slice('docs/'.length)})`), page);
  }
});

test('files that the documents for developers name exist', () => {
  for (const document of ['ARCHITECTURE.md', 'CONTRIBUTING.md', 'README.md', 'docs/index.md']) {
    const paths = [...read(document).matchAll(/`((?:src|test|scripts|docs|proto|grafana|bin)\/[\w./-]*)`/g)];
    assert.ok(document !== 'ARCHITECTURE.md' || paths.length > 20, `${paths.length} paths in ${document}`);
    for (const [, path = ''] of paths) {
      const there = statSync(join(ROOT, path), { throwIfNoEntry: false });
      assert.ok(there, `${document} names ${path}`);
      assert.equal(there.isDirectory(), path.endsWith('/'), `${document}: ${path} (folders end with a slash)`);
    }
  }
});
