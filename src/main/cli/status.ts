import { SluiceError } from '../../errors.ts';
import { loadConfig } from '../../node/config/load.ts';
import { duration } from '../../node/observe/gantt.ts';
import type { NowView } from '../../node/observe/metrics-server.ts';
import { criClient, DebugClient } from './client.ts';
import { type Call, type Command, EXIT, optionText, printJson, useColor } from './command.ts';
import { painter } from './gantt-text.ts';

export const STATUS: Command = {
  name: 'status',
  summary: 'is it ready, and what does it have and do',
  description: 'Status 1 when the runtime or the network is not ready.',
  peers: ['cri', 'metrics'],
  json: true,
  async run(call) {
    using cri = await criClient(call);
    const [version, { status }, now] = await Promise.all([cri.version(), cri.status(), lookNow(call)]);
    const conditions = status?.conditions ?? [];
    const ready = conditions.every((one) => one.status);
    if (call.options.json) {
      printJson(call.out, { version: version.runtimeVersion, ready, conditions, now });
      return ready ? EXIT.ok.status : EXIT.failed.status;
    }
    const paint = painter(useColor(call.out));
    const lines: [string, string][] = [['version', version.runtimeVersion]];
    for (const { type, status: good, reason, message } of conditions) {
      const words = [reason, message].filter((text) => text !== '').join(': ');
      lines.push([type.replace(/Ready$/, '').toLowerCase(), good ? 'ready' : paint(`NOT READY ${words}`, 'red')]);
    }
    if (now) lines.push(...figures(now));
    else lines.push(['metrics', 'not served (metrics.listen is empty)']);
    for (const [name, text] of lines) call.out.write(`${`${name}:`.padEnd(12)}${text}\n`);
    for (const { what, id, failed, attempts } of now?.cleanups ?? []) {
      call.out.write(`  ${what} (${id.slice(0, 13)}), ${attempts} tries: ${failed}\n`);
    }
    return ready ? EXIT.ok.status : EXIT.failed.status;
  },
};

/** What the metrics address says, where there is one. */
async function lookNow(call: Call): Promise<NowView | undefined> {
  const off = optionText(call, 'metrics') === undefined && loadConfig(optionText(call, 'config')).metrics.listen === '';
  if (off) return undefined;
  try {
    return await new DebugClient(call).call<NowView>('/debug/now');
  } catch (error) {
    if (error instanceof SluiceError && error.code === 'NOT_READY') return undefined;
    throw error;
  }
}

function figures(now: NowView): [string, string][] {
  const counts = (by: Partial<Record<string, number>>) =>
    Object.entries(by)
      .map(([state, count]) => `${count} ${state}`)
      .join(', ') || 'none';
  const lanes = Object.entries(now.lanes).map(
    ([lane, use]) => `${lane} ${use?.running ?? 0} running ${use?.queued ?? 0} queued`,
  );
  return [
    ['up', duration(now.uptimeSeconds * 1000)],
    ['pods', counts(now.pods)],
    ['containers', counts(now.containers)],
    ['jobs', lanes.join(', ')],
    ['clean-ups', now.cleanupsPending === 0 ? 'none pending' : `${now.cleanupsPending} pending`],
    ['memory', `${Math.round(now.residentBytes / 2 ** 20)} MiB`],
    ['event loop', `p99 ${duration(now.loopDelay.p99 * 1000)}, longest ${duration(now.loopDelay.max * 1000)}`],
  ];
}
