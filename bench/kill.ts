// kill -9 under load: `KILLS=50 node bench/kill.ts`. Fails where a client got anything but its own answer, a clean error or
// the beginning of its own answer and a clean error.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { quantile, type Row, record } from './record.ts'
import { compileDemoTo } from './soak/demo.ts'
import { killBackends } from './soak/kill-load.ts'

const KILLS = Number(process.env.KILLS ?? 50)
const SEED = Number(process.env.SEED ?? 20261124)
const MAX_READY_MS = 5_000

const scratch = await mkdtemp(join(tmpdir(), 'sidepath-kill-'))
try {
  const { artifact, manifest } = await compileDemoTo(join(scratch, 'artifact'))
  const { readyMs, answeredAgainMs, whole, refused, interrupted, wrong } = await killBackends({
    artifact,
    manifest,
    scratch,
    kills: KILLS,
    seed: SEED,
  })
  const what = `${readyMs.length} times kill -9 of a backend, of two behind a gateway, under load`
  const times = (name: string, samples: readonly number[]): Row => ({
    what: `${what}: ${name}`,
    value: `median ${quantile(samples, 0.5)} ms, p95 ${quantile(samples, 0.95)} ms, at most ${Math.max(...samples)} ms`,
    samples,
  })
  record('kill', `KILLS=${KILLS} SEED=${SEED} node bench/kill.ts`, [
    times('ready again, from the start of the process', readyMs),
    times('where both were killed: answered through the gateway again, from then on', answeredAgainMs),
    { what: `${what}: whole answers, each the tenant's own`, value: `${whole}` },
    { what: `${what}: streams cut after their first byte, with an error event`, value: `${interrupted}` },
    { what: `${what}: errors before the first byte`, value: JSON.stringify(refused) },
    { what: `${what}: of another tenant, cut without a word, hung, or else not clean`, value: `${wrong.length}` },
  ])
  for (const one of wrong) process.stderr.write(`${JSON.stringify(one)}\n`)
  if (wrong.length > 0 || Math.max(...readyMs) > MAX_READY_MS) process.exitCode = 1
} finally {
  await rm(scratch, { recursive: true, force: true })
}
