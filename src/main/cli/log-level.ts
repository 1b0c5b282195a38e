import { LOG_LEVELS } from '../../node/observe/log.ts';
import { DebugClient } from './client.ts';
import { type Command, EXIT, printJson } from './command.ts';

export const LOG_LEVEL: Command = {
  name: 'log-level',
  summary: 'show or change the log level of a running daemon',
  description: 'A reload or restart goes back to log.level of the configuration.',
  arguments: [{ name: 'level', description: `one of ${LOG_LEVELS.join(', ')}`, optional: true, complete: LOG_LEVELS }],
  peers: ['metrics'],
  json: true,
  async run(call) {
    const [level] = call.arguments;
    const client = new DebugClient(call);
    const path = level === undefined ? '' : `?level=${encodeURIComponent(level)}`;
    const answer = await client.call<{ level: string }>(`/debug/log-level${path}`, level === undefined ? 'GET' : 'PUT');
    if (call.options.json) printJson(call.out, { level: answer.level });
    else call.out.write(`${answer.level}\n`);
    return EXIT.ok.status;
  },
};
