/** `sluice config …`: the configuration without a daemon, and beside what a running one has. */
import type { Config } from '../../node/config/config.ts';
import { checkConfig, loadSources, parseConfig } from '../../node/config/load.ts';
import { printDefault } from '../../node/config/print.ts';
import { differences, flatten, needsRestart } from '../../node/config/values.ts';
import { criClient } from './client.ts';
import { type Call, type Command, EXIT, optionText, PEER_OPTIONS, printJson, printTable } from './command.ts';

const FILE = {
  name: 'file',
  description: 'the main file, with conf.d beside it (default: /etc/sluice/config.toml)',
  optional: true,
  complete: 'file',
} as const;

const CONFIG_DEFAULT: Command = {
  name: 'config default',
  summary: 'print the default configuration, with comments',
  run({ out }) {
    out.write(printDefault());
    return EXIT.ok.status;
  },
};

const CONFIG_CHECK: Command = {
  name: 'config check',
  summary: 'check a configuration',
  description: 'Prints each mistake with its file and line. Status 1 when there is one.',
  arguments: [FILE],
  json: true,
  run({ arguments: [file], options, out }) {
    const problems = checkConfig(file);
    if (options.json) printJson(out, { good: problems.length === 0, problems });
    else if (problems.length > 0) for (const problem of problems) process.stderr.write(`${problem}\n`);
    else out.write(`${loadSources(file).files.join(', ') || 'no file, so the defaults'}: good\n`);
    return problems.length === 0 ? EXIT.ok.status : EXIT.failed.status;
  },
};

const CONFIG_SHOW: Command = {
  name: 'config show',
  summary: 'print every key with its value and where that comes from',
  arguments: [FILE],
  json: true,
  run({ arguments: [file], options, out }) {
    const { config, origin } = loadSources(file);
    const rows = [...flatten(config)].map(([key, value]) => {
      const at = origin(key);
      return { key: key.join('.'), value, from: at ? `${at.file}:${at.line}` : 'default' };
    });
    if (options.json) printJson(out, rows);
    else
      printTable(
        out,
        ['KEY', 'VALUE', 'FROM'],
        rows.map((row) => [row.key, JSON.stringify(row.value), row.from]),
      );
    return EXIT.ok.status;
  },
};

const CONFIG_DIFF: Command = {
  name: 'config diff',
  summary: 'what is configured otherwise than the default, or than a daemon runs with',
  description:
    'With --running, the configuration is put beside that of the running daemon, with what each change needs: a reload or a restart. Status 1 when there is a difference then.',
  arguments: [FILE],
  options: [{ flags: '--running', description: 'compare with the running daemon' }, PEER_OPTIONS.cri],
  json: true,
  async run(call) {
    const [file] = call.arguments;
    const { config, origin } = loadSources(file);
    const running = call.options.running === true;
    const { config: before, runtimesInUse } = running
      ? await runningConfig(call, file)
      : { config: parseConfig('', 'the defaults'), runtimesInUse: new Set<string>() };
    const changes = differences(before, config).map((change) => {
      const { key, from, to } = change;
      const at = origin(key);
      return {
        key: key.join('.'),
        [running ? 'running' : 'default']: from,
        configured: to,
        from: at ? `${at.file}:${at.line}` : 'default',
        ...(running ? { needs: needsRestart(change, runtimesInUse) ? 'restart' : 'reload' } : {}),
      };
    });
    if (call.options.json) printJson(call.out, changes);
    else if (changes.length === 0) call.out.write('no difference\n');
    else {
      const columns = Object.keys(changes[0] ?? {});
      const cell = (value: unknown, column: string) =>
        column === 'key' || column === 'from' || column === 'needs'
          ? String(value)
          : (JSON.stringify(value) ?? '(none)');
      printTable(
        call.out,
        columns.map((column) => column.toUpperCase()),
        changes.map((change) => Object.entries(change).map(([column, value]) => cell(value, column))),
      );
    }
    return running && changes.length > 0 ? EXIT.failed.status : EXIT.ok.status;
  },
};

async function runningConfig(
  call: Call,
  file: string | undefined,
): Promise<{ config: Config; runtimesInUse: Set<string> }> {
  const options = { ...call.options, config: optionText(call, 'config') ?? file };
  using cri = await criClient({ ...call, options });
  const { info } = await cri.status({ verbose: true });
  return {
    config: JSON.parse(info.sluice ?? info.config ?? '{}') as Config,
    runtimesInUse: new Set(JSON.parse(info.runtimesInUse ?? '[]') as string[]),
  };
}

export const CONFIG_COMMANDS: readonly Command[] = [CONFIG_DEFAULT, CONFIG_CHECK, CONFIG_SHOW, CONFIG_DIFF];
