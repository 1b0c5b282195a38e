import { setTimeout as sleep } from 'node:timers/promises';
import type { PodSandboxStats } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { criClient } from './client.ts';
import { type Command, EXIT, optionText, printJson, printTable } from './command.ts';

const MIB = 2 ** 20;

export const STATS: Command = {
  name: 'stats',
  summary: 'CPU, memory and network of pods',
  description: 'CPU is measured over an interval. Memory is the working set, as the kubelet counts it.',
  options: [
    { flags: '--interval <seconds>', description: 'time over which CPU is measured (default: 1)' },
    {
      flags: '--sort <column>',
      description: 'cpu or memory, highest first (default: cpu)',
      complete: ['cpu', 'memory'],
    },
  ],
  peers: ['cri'],
  json: true,
  async run(call) {
    const seconds = Number(optionText(call, 'interval') ?? 1);
    if (!(seconds >= 0.1 && seconds <= 60)) throw new SluiceError('INVALID_REQUEST', '--interval is 0.1 to 60 seconds');
    using cri = await criClient(call);
    const before = new Map((await cri.listPodSandboxStats()).stats.map((one) => [one.attributes?.id ?? '', one]));
    await sleep(seconds * 1000);
    const { stats } = await cri.listPodSandboxStats();
    const by = optionText(call, 'sort') === 'memory' ? 'memoryBytes' : 'cores';
    const rows = stats.map((one) => usage(one, before.get(one.attributes?.id ?? ''))).sort((a, b) => b[by] - a[by]);
    if (call.options.json) printJson(call.out, rows);
    else {
      printTable(
        call.out,
        ['POD', 'CPU', 'MEMORY', 'RECEIVED', 'SENT', 'PROCESSES', 'NAME'],
        rows.map((row) => [
          row.id.slice(0, 13),
          `${Math.round(row.cores * 1000)}m`,
          `${(row.memoryBytes / MIB).toFixed(1)} MiB`,
          `${(row.receivedBytes / MIB).toFixed(1)} MiB`,
          `${(row.sentBytes / MIB).toFixed(1)} MiB`,
          row.processes,
          `${row.namespace}/${row.name}`,
        ]),
      );
    }
    return EXIT.ok.status;
  },
};

/** `cores` over the time between two readings; 0 for a pod that is too young for two. */
function usage(now: PodSandboxStats, before: PodSandboxStats | undefined) {
  const { attributes, linux } = now;
  const cpu = linux?.cpu;
  const earlier = before?.linux?.cpu;
  const ns = Number((cpu?.timestamp ?? 0n) - (earlier?.timestamp ?? 0n));
  const used = Number((cpu?.usageCoreNanoSeconds?.value ?? 0n) - (earlier?.usageCoreNanoSeconds?.value ?? 0n));
  return {
    id: attributes?.id ?? '',
    namespace: attributes?.metadata?.namespace ?? '',
    name: attributes?.metadata?.name ?? '',
    cores: earlier && ns > 0 ? used / ns : Number(cpu?.usageNanoCores?.value ?? 0n) / 1e9,
    memoryBytes: Number(linux?.memory?.workingSetBytes?.value ?? 0n),
    receivedBytes: Number(linux?.network?.defaultInterface?.rxBytes?.value ?? 0n),
    sentBytes: Number(linux?.network?.defaultInterface?.txBytes?.value ?? 0n),
    processes: Number(linux?.process?.processCount?.value ?? 0n),
  };
}
