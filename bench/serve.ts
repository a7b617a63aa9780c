// What serving costs, and what others take for the same: `node bench/serve.ts [--only routing|llama|peft|zipf|ready|scaling|prefix]`.
// Each part takes a few minutes at most and writes bench/results/serve-<part>.json. THREADS (2), TIMES, ACCURACY_LEVEL (4);
// routing: BASE=smollm2|wide, METRIC=cpu; llama: LLAMA; peft: PYTHON; zipf: SECONDS.
import { parseArgs } from 'node:util'
import { record } from './record.ts'
import { llama } from './serve/llama.ts'
import { peft } from './serve/peft.ts'
import { prefix } from './serve/prefix.ts'
import { ready } from './serve/ready.ts'
import { routing } from './serve/routing.ts'
import { scaling } from './serve/scaling.ts'
import { zipf } from './serve/zipf.ts'

const PARTS = { routing, llama, peft, zipf, ready, scaling, prefix }

const { values } = parseArgs({ options: { only: { type: 'string' } } })
for (const [part, run] of Object.entries(PARTS)) {
  if (values.only !== undefined && values.only !== part) continue
  record(`serve-${part}`, `node bench/serve.ts --only ${part}`, await run())
}
