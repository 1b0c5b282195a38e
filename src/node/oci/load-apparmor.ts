import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { SluiceError } from '../../errors.ts';
import { run } from '../../sys/spawn.ts';
import { commandOf } from '../../workers/programs.ts';
import { findProgram } from '../../workers/shim/program.ts';
import { defaultProfileText } from './apparmor.ts';

const FOLDER = '/etc/apparmor.d';
const LIMIT_MS = 60_000;

/**
 * Loads or replaces the default AppArmor profile, with apparmor_parser. Rejects with INTERNAL and the parser's output
 * when the parser fails.
 */
export async function loadDefaultAppArmorProfile(): Promise<void> {
  const own = (await readFile('/proc/self/attr/current', 'utf8')).replace(/ \(.*\)|\0|\n/g, '');
  const text = defaultProfileText({
    tunables: existsSync(`${FOLDER}/tunables/global`),
    abstractions: existsSync(`${FOLDER}/abstractions/base`),
    abi: existsSync(`${FOLDER}/abi/3.0`),
    daemonProfile: own,
  });
  const parser = await findProgram('apparmor_parser', 'AppArmor’s parser', '/sbin:/usr/sbin');
  const { code, stderr } = await run({
    ...commandOf(parser, ['--replace', '--skip-cache']),
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
    stdin: Buffer.from(text),
    timeoutMs: LIMIT_MS,
  });
  if (code !== 0)
    throw new SluiceError('INTERNAL', `apparmor_parser refused the default profile: ${stderr.toString().trim()}`);
}
