// LoRA training: ours against torch with PEFT, alternating, the same base, batch and rank, each in a process of its own; and
// against full fine-tuning in our own framework. PYTHON names an interpreter with torch, transformers and peft.
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { readConfig } from '../compiler/checkpoint/config.ts'
import { requiredTensors } from '../compiler/checkpoint/names.ts'
import { stream } from '../compiler/combine/threefry.ts'
import { encodeSafetensors, type FloatTensor } from '../compiler/safetensors/write.ts'
import { openFolder } from '../runtime/disk.ts'
import { quantile, type Row, record } from './record.ts'

const [SAMPLES, STEPS, ROWS, TOKENS, R] = [5, 3, 4, 256, 8]
/** Beside full fine-tuning: on a base this narrow r = 8 is 1.5 % of it, where it is 0.1 % of one of some thousand millions. */
const SMALL_R = 4
const THREADS = availableParallelism()
// SmolLM2's shape, narrower: 41 M parameters, of which 16 M are the embedding, which is also the head.
const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 512,
  intermediate_size: 1408,
  num_hidden_layers: 8,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  vocab_size: 32_000,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  tie_word_embeddings: true,
  hidden_act: 'silu',
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: 'float32',
}

interface Trainer {
  steps(count: number): Promise<number>
  end(): Promise<{ trainable: number; peakBytes: number }>
}

const base = await mkdtemp(join(tmpdir(), 'sidepath-bench-base-'))
try {
  await writeBase()
  const rows: Row[] = []
  const ours = await start(process.execPath, [join(import.meta.dirname, 'train-step.ts')], 'lora')
  const peft = await start(process.env.PYTHON || 'python3', [join(import.meta.dirname, 'train-peft.py')], 'lora')
  const [oursSpeed, peftSpeed]: [number[], number[]] = [[], []]
  for (let i = 0; i < SAMPLES; i += 1) {
    oursSpeed.push((STEPS * ROWS * TOKENS) / (await ours.steps(STEPS)))
    peftSpeed.push((STEPS * ROWS * TOKENS) / (await peft.steps(STEPS)))
  }
  const [mine, theirs] = [await ours.end(), await peft.end()]
  const what = `LoRA r=${R} on all linears, 41 M parameters, ${ROWS} × ${TOKENS} tokens a step, fp32, ${THREADS} threads`
  const [fast, slow] = [quantile(oursSpeed, 0.5), quantile(peftSpeed, 0.5)]
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`
  rows.push({ what: `${what}: sidepath`, value: `${fast.toFixed(0)} tokens/s`, samples: oursSpeed })
  rows.push({ what: `${what}: torch with PEFT`, value: `${slow.toFixed(0)} tokens/s`, samples: peftSpeed })
  rows.push({ what: `${what}: sidepath's speed over that of torch with PEFT`, value: `${(fast / slow).toFixed(2)}×` })
  rows.push({ what: `${what}: peak resident memory, sidepath`, value: mib(mine.peakBytes) })
  rows.push({ what: `${what}: peak resident memory, torch with PEFT`, value: mib(theirs.peakBytes) })
  rows.push({
    what: `${what}: sidepath's peak over that of torch with PEFT`,
    value: `${(mine.peakBytes / theirs.peakBytes).toFixed(2)}×`,
  })

  const others: Record<string, { speed: number; trainable: number; peakBytes: number }> = {}
  for (const mode of ['recompute', 'int4', 'full', 'full-recompute']) {
    const trainer = await start(
      process.execPath,
      [join(import.meta.dirname, 'train-step.ts')],
      mode,
      mode === 'recompute' ? SMALL_R : R,
    )
    const seconds = await trainer.steps(STEPS)
    others[mode] = { speed: (STEPS * ROWS * TOKENS) / seconds, ...(await trainer.end()) }
  }
  const names = {
    recompute: `r=${SMALL_R}, activations computed twice`,
    int4: 'base in int4',
    full: 'full fine-tuning',
    'full-recompute': 'full fine-tuning, activations computed twice',
  }
  for (const [mode, name] of Object.entries(names)) {
    const { speed, peakBytes } = others[mode] as (typeof others)[string]
    rows.push({ what: `${what}: ${name}`, value: `${speed.toFixed(0)} tokens/s, ${mib(peakBytes)}` })
  }
  const [light, full] = [others.recompute, others['full-recompute']] as [
    (typeof others)[string],
    (typeof others)[string],
  ]
  rows.push({
    what: `trained parameters, full fine-tuning over LoRA r=${SMALL_R}`,
    value: `${full.trainable} / ${light.trainable} = ${(full.trainable / light.trainable).toFixed(0)}×`,
  })
  rows.push({
    what: `peak resident memory, LoRA r=${SMALL_R} over full fine-tuning, activations computed twice in both`,
    value: `${(light.peakBytes / full.peakBytes).toFixed(2)}×`,
  })
  record('train', 'PYTHON=<python with peft> node bench/train.ts', rows)
} finally {
  await rm(base, { recursive: true })
}

async function start(command: string, args: readonly string[], mode: string, r = R): Promise<Trainer> {
  const numbers = [ROWS, TOKENS, r, THREADS].map(String)
  const child: ChildProcessByStdio<Writable, Readable, null> = spawn(command, [...args, base, mode, ...numbers], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const next = async (): Promise<string> => {
    const { value, done } = await lines.next()
    if (done) throw new Error(`${command} ${mode} ended early`)
    return String(value)
  }
  if ((await next()) !== 'ready') throw new Error(`${command} ${mode} is not ready`)
  return {
    async steps(count) {
      child.stdin.write(`${count}\n`)
      return Number(await next())
    },
    async end() {
      child.stdin.end()
      const result = JSON.parse(await next()) as { trainable: number; peakBytes: number }
      if (child.exitCode === null) await once(child, 'close')
      return result
    },
  }
}

async function writeBase(): Promise<void> {
  await writeFile(join(base, 'config.json'), JSON.stringify(CONFIG))
  const config = await readConfig(openFolder(base))
  const tensors = new Map<string, FloatTensor>()
  for (const [name, shape] of requiredTensors(config)) {
    const count = shape.reduce((product, size) => product * size, 1)
    const numbers = stream(0, name)(count)
    const data = name.endsWith('norm.weight')
      ? new Float32Array(count).fill(1)
      : Float32Array.from(numbers, (x) => 0.07 * (x - 0.5))
    tensors.set(name, { shape, data })
  }
  await writeFile(join(base, 'model.safetensors'), encodeSafetensors(tensors, { format: 'pt' }))
}
