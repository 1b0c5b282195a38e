import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { bytesText, LayerBars } from '../../src/main/cli/layer-bars.ts';
import type { LayerProgress } from '../../src/node/images/layer-store.ts';

const layer = (downloaded: number, state: LayerProgress['state'] = 'downloading'): LayerProgress => ({
  digest: `sha256:${'ab'.repeat(32)}`,
  size: 100 << 20,
  downloaded,
  state,
});

test('bytes as people read them', () => {
  assert.deepEqual([0, 1023, 1536, 73.4 * 2 ** 20, 3 * 2 ** 40].map(bytesText), [
    ...['0 B', '1023 B', '1.5 KiB', '73.4 MiB', '3.0 TiB'],
  ]);
});

test('a bar has share, rate and the time left', () => {
  const bars = new LayerBars(process.stderr, false);
  assert.equal(bars.line(layer(0, 'waiting'), 0), `  abababababab [${' '.repeat(24)}] 0 B of 100.0 MiB  waiting`);
  bars.line(layer(0), 10);
  assert.match(bars.line(layer(50 << 20), 12), /\[={12} {12}\] 50\.0 MiB of 100\.0 MiB {2}25\.0 MiB\/s {2}2 s left$/);
  assert.match(bars.line(layer(100 << 20), 13), /unpacking$/);
});

test('bars are redrawn in place, and not at all where there is no terminal', () => {
  let written = '';
  const out = new Writable({
    write(chunk, _, done) {
      written += chunk;
      done();
    },
  });
  const bars = new LayerBars(out, true);
  bars.draw('app', [layer(1), layer(2)]);
  bars.draw('app', [layer(3)]);
  bars.clear();
  assert.ok(written.includes('\x1b[3A\x1b[J') && written.endsWith('\x1b[2A\x1b[J'));
  written = '';
  new LayerBars(out, false).draw('app', [layer(1)]);
  assert.equal(written, '');
});
