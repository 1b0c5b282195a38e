/**
 * A made-up daemon: the real observability around launches that are only timers. Prints its port; lives until it is
 * killed.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../../src/errors.ts';
import { createLog } from '../../src/node/observe/log.ts';
import { createObservability } from '../../src/node/observe/observability.ts';
import { JOB_TABLES } from '../../src/pipeline/jobs/tables/all.ts';
import type { JobName, StageName } from '../../src/stages.ts';

const all = createObservability({
  config: {
    metrics: { listen: '127.0.0.1:0', containerd_names: true },
    // Nobody listens there: spans are dropped, exemplars are made.
    tracing: { endpoint: 'http://127.0.0.1:9' },
    log: { level: 'error', max_container_line: 1 },
  },
  jobs: JOB_TABLES,
  log: createLog({ level: 'error', stream: { write() {} } }),
});
const { observer, metrics } = all;
metrics.readFrom({
  stage: () => ({ running: 1, queued: 0, limit: 8 }),
  lanes: () => ({
    launch: { running: 1, queued: 1, limit: 8 },
    teardown: { running: 0, queued: 0, limit: 8 },
    image: { running: 0, queued: 0, limit: 8 },
  }),
  laneQueueLimit: () => 100,
  pods: () => ({ ready: 3 }),
  networkReady: () => true,
});
metrics.cniPlugins(['bridge', 'portmap']);

interface Shape {
  name: JobName;
  stages: readonly { name: StageName; needs: readonly StageName[] }[];
}

let count = 0;

async function job({ name, stages }: Shape): Promise<void> {
  count++;
  const run = observer.jobQueued({ job: name, pod: `default/made-up-${count}` });
  metrics.inc('admission', { lane: 'launch', verdict: 'admitted' });
  observer.jobStarted(run);
  const done = new Map<string, Promise<void>>();
  const error = count % 5 === 0 ? new SluiceError('CNI_FAILED', 'made up') : undefined;
  for (const [index, { name: stage, needs }] of stages.entries()) {
    const work = async () => {
      await Promise.all(needs.map((need) => done.get(need)));
      observer.stageReady(run, stage);
      observer.stageStarted(run, stage);
      await sleep(Math.random() * 10);
      observer.stageEnded(run, stage, index === stages.length - 1 ? error : undefined);
    };
    done.set(stage, work());
  }
  await Promise.all(done.values());
  if (error) {
    observer.undoStarted(run, 'netns');
    observer.undoEnded(run, 'netns', count % 10 === 0 ? error : undefined);
  }
  observer.jobEnded(run, error);
}

function aside(): void {
  metrics.cni(count % 2 ? 'bridge' : 'portmap', count % 3 ? 'ADD' : 'DEL', 'ok', 0.02);
  metrics.grpc('ListPodSandbox', 0, 0.001);
  metrics.observe('imagePull', { outcome: 'ok' }, 0.5);
  metrics.observe('imagePhase', { phase: 'layer', outcome: 'ok' }, 0.2);
  metrics.observe('spawn', { kind: 'cni' }, 0.0004);
  metrics.observe('shimCall', { method: 'Create' }, 0.02);
  metrics.observe('storeWrite', {}, 0.00004);
}

console.log(await all.server.listen());
for (;;) {
  for (const table of JOB_TABLES) void job(table);
  aside();
  await sleep(50);
}
