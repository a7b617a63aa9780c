// 50 steps on the demo's base, from the same start, data and order as torch with PEFT (train-oracle.py).
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { transpose } from '../../compiler/adapter/low-rank.ts'
import { openText } from '../../gpu-backend/text/tokenizer.ts'
import { openFolder } from '../../runtime/disk.ts'
import { makeBatch } from '../../trainer/data/batch.ts'
import { countTargets, type Example } from '../../trainer/data/example.ts'
import { trainingNames } from '../../trainer/graph/names.ts'
import { selectLora } from '../../trainer/lora/select.ts'
import { ADAM_DEFAULTS } from '../../trainer/optimise/adamw.ts'
import { rateAt } from '../../trainer/optimise/schedule.ts'
import { Learner } from '../../trainer/run/learner.ts'
import { loraGroups, loraParameters } from '../../trainer/run/parameters.ts'
import { LORA, openLearning, readTensors } from './learning.ts'

const DEMO = join(import.meta.dirname, '../../examples/demo')
const ORACLE = join(import.meta.dirname, '../parity/oracle/train')

const { curve } = JSON.parse(readFileSync(join(ORACLE, 'oracle.json'), 'utf8')) as {
  curve: Record<'steps' | 'batch' | 'warmUp' | 'rate' | 'decay' | 'clip' | 'r' | 'alpha', number> & {
    readonly losses: readonly number[]
    readonly norms: readonly number[]
  }
}

it('follows the losses of torch and PEFT within 1e-3, and the norms of their gradients', {
  timeout: 300_000,
}, async () => {
  const lora = { ...LORA, r: curve.r, alpha: curve.alpha, targetModules: ['q_proj', 'down_proj'] }
  await using learning = await openLearning({ base: join(DEMO, 'base'), lora })
  const spec = selectLora(learning.checkpoint.config.architecture, lora)
  const parameters = loraParameters(spec)
  const start = await readTensors(join(ORACLE, 'curve.start.safetensors'))
  for (const { linear, r } of spec.modules) {
    const A = start.get(`${linear.module}.lora_A`)?.data as Float32Array
    parameters.of(trainingNames.loraA(linear.module)).set(transpose(A, r, linear.in))
  }
  const text = (await openText(openFolder(join(DEMO, 'base'))))!
  const examples = readFileSync(join(DEMO, 'heldout.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line): Example => {
      const { prompt, triage } = JSON.parse(line) as { prompt: string; triage: string }
      const before = text.tokenIds(`Message: ${prompt}\nAnswer:\n`, true)
      const after = text.tokenIds(`${triage}</s>`, false)
      return { ids: [...before, ...after], isTarget: [...before.map(() => false), ...after.map(() => true)] }
    })
  const learner = new Learner(learning.session, parameters, loraGroups(parameters, 1))
  const adam = { ...ADAM_DEFAULTS, weightDecay: curve.decay }
  const schedule = {
    kind: 'cosine',
    learningRate: curve.rate,
    warmUpSteps: curve.warmUp,
    steps: curve.steps,
    floor: 0,
  } as const
  for (let step = 0; step < curve.steps; step += 1) {
    const rows = examples.slice(step * curve.batch, (step + 1) * curve.batch).map((example) => [example])
    // Two runs, summed: what torch does in one.
    const scale = 1 / countTargets(rows.flat())
    const halves = [rows.slice(0, 2), rows.slice(2)].map((half) => makeBatch(half, scale, 2).feeds)
    const { loss, gradientNorm } = await learner.learn(halves, {
      learningRate: rateAt(schedule, step),
      maxGradNorm: curve.clip,
      adam,
    })
    expect(Math.abs(loss / curve.losses[step]! - 1), `loss of step ${step}`).toBeLessThan(1e-3)
    expect(Math.abs(gradientNorm / curve.norms[step]! - 1), `norm of step ${step}`).toBeLessThan(1e-2)
  }
})
