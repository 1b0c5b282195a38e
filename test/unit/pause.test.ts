import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pauseProgram } from '../../src/workers/image/pause-program.ts';

const BUILD = join(import.meta.dirname, '../../src/node/images/pause/build.sh');
/**
 * Entry point and the one loadable segment: all of the file that runs, and all that every version of binutils writes
 * alike.
 */
function loaded(elf: Buffer): { entry: bigint; address: bigint; code: string } {
  const header = Number(elf.readBigUInt64LE(32)); // the first program header
  assert.equal(elf.readUInt32LE(header), 1, 'PT_LOAD');
  const offset = Number(elf.readBigUInt64LE(header + 8));
  const size = Number(elf.readBigUInt64LE(header + 32));
  const code = elf.toString('hex', offset, offset + size);
  return { entry: elf.readBigUInt64LE(24), address: elf.readBigUInt64LE(header + 16), code };
}

const MACHINES = { x64: ['x86_64', 62], arm64: ['aarch64', 183] } as const;

for (const [arch, [machine, number]] of Object.entries(MACHINES)) {
  test(`the pause program for ${arch} is a small ELF file of that machine`, () => {
    const program = pauseProgram(arch);
    assert.equal(program.toString('latin1', 0, 4), '\x7fELF');
    assert.equal(program.readUInt16LE(18), number);
    assert.ok(program.length < 1024, `${program.length} bytes`);
  });

  const tool = arch === process.arch ? '/usr/bin/as' : `/usr/bin/${machine}-linux-gnu-as`;
  test(`the pause program for ${arch} is what its source gives`, { skip: !existsSync(tool) && `no ${tool}` }, () => {
    const folder = mkdtempSync(join(tmpdir(), 'sluice-pause-'));
    try {
      execFileSync('sh', [BUILD, machine, join(folder, 'pause')]);
      assert.deepEqual(loaded(readFileSync(join(folder, 'pause'))), loaded(pauseProgram(arch)));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

test('other machines have none', () => {
  assert.throws(() => pauseProgram('s390x'), /no built-in pause program for s390x/);
});
