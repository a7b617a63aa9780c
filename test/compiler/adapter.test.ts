// What a PEFT folder must not get away with. Each case changes one thing about the tiny model's adapters.
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { readAdapterFolder } from '../../compiler/adapter/read.ts'
import { readConfig } from '../../compiler/checkpoint/config.ts'
import { layerLinears } from '../../compiler/checkpoint/names.ts'
import { compile } from '../../compiler/compile.ts'
import type { Linear } from '../../compiler/contract.ts'
import type { ProblemCode } from '../../compiler/errors.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { expectRefusal, refusal } from './failing.ts'
import { ADAPTER_FILES, type Files, loadFiles, memoryFolder, memoryOut, TINY } from './folders.ts'
import { editRaw, float32, parseRaw, type RawTensor } from './safetensors-file.ts'

const Q0 = 'base_model.model.model.layers.0.self_attn.q_proj'
const base = openFolder(join(TINY, 'base'))
let linears: Linear[]
let a: Record<string, Uint8Array>
let b: Record<string, Uint8Array>

beforeAll(async () => {
  linears = layerLinears((await readConfig(base)).architecture)
  a = await loadFiles(join(TINY, 'a'), ADAPTER_FILES)
  b = await loadFiles(join(TINY, 'b'), ADAPTER_FILES)
})

const read = (files: Files) => readAdapterFolder('x', memoryFolder('x', files), linears)
const withConfig = (files: Files, change: Record<string, unknown>): Files => {
  const config = JSON.parse(text(files['adapter_config.json']))
  return { ...files, 'adapter_config.json': JSON.stringify({ ...config, ...change }) }
}
const withTensors = (files: Files, change: (tensors: Map<string, RawTensor>) => void) => ({
  ...files,
  'adapter_model.safetensors': editRaw(files['adapter_model.safetensors'] as Uint8Array, change),
})
const text = (content: Uint8Array | string | undefined) =>
  typeof content === 'string' ? content : new TextDecoder().decode(content)
const move = (tensors: Map<string, RawTensor>, from: string, to: string) => {
  tensors.set(to, tensors.get(from)!)
  tensors.delete(from)
}

describe('an adapter that PEFT wrote', () => {
  it('is read with each module in graph order, both factors transposed, values untouched', async () => {
    const adapter = await read(a)
    expect(adapter.modules.map(({ linear }) => linear.module)).toEqual(linears.map(({ module }) => module))
    const raw = parseRaw(a['adapter_model.safetensors']!)
    const [q] = adapter.modules
    const A = new Float32Array(raw.get(`${Q0}.lora_A.weight`)!.data.buffer)
    const B = new Float32Array(raw.get(`${Q0}.lora_B.weight`)!.data.buffer)
    const [r, inSize, out] = [5, 48, 48]
    for (let k = 0; k < r; k += 1) {
      for (let i = 0; i < inSize; i += 1) expect(q?.A[i * r + k]).toBe(A[k * inSize + i])
      for (let o = 0; o < out; o += 1) expect(q?.B[k * out + o]).toBe(B[o * r + k])
    }
  })

  it('has the scaling lora_alpha / r', async () => {
    for (const { scaling } of (await read(a)).modules) expect(scaling).toBe(12 / 5)
  })

  it('has the scaling lora_alpha / √r with rsLoRA, and the patterns where they match', async () => {
    for (const { linear, r, scaling } of (await read(b)).modules) {
      const special = linear.module === 'model.layers.1.self_attn.q_proj'
      expect(r).toBe(special ? 2 : 3)
      expect(scaling).toBe(special ? 5 / Math.sqrt(2) : 7 / Math.sqrt(3))
    }
  })

  it.each([
    [
      'keys with ".default."',
      (files: Files) =>
        withTensors(files, (tensors) => {
          for (const key of [...tensors.keys()]) move(tensors, key, key.replace('.weight', '.default.weight'))
        }),
    ],
    [
      'target_modules as a regex',
      (files: Files) => withConfig(files, { target_modules: String.raw`.*\.(self_attn\.[qkvo]|mlp\.\w+)_proj` }),
    ],
    ['no target_modules', (files: Files) => withConfig(files, { target_modules: null })],
    ['fan_in_fan_out, which means nothing to nn.Linear', (files: Files) => withConfig(files, { fan_in_fan_out: true })],
    [
      'what a conversion from another initialisation leaves behind',
      (files: Files) => withConfig(files, { corda_config: { corda_method: 'kpm' }, loftq_config: { loftq_bits: 4 } }),
    ],
    ['an initialisation that leaves the base alone', (files: Files) => withConfig(files, { init_lora_weights: 'eva' })],
    ['target_modules "all-linear"', (files: Files) => withConfig(files, { target_modules: 'all-linear' })],
    [
      'keys of a newer PEFT that are off',
      (files: Files) => withConfig(files, { a_new_key: null, another: false, third: [], fourth: {} }),
    ],
    [
      'full module names as targets',
      (files: Files) => withConfig(files, { target_modules: linears.map(({ module }) => module) }),
    ],
  ])('may have %s', async (_, change) => {
    expect((await read(change(a))).modules).toEqual(
      (await read(a)).modules.map((module) => ({ ...module, tensors: expect.anything() })),
    )
  })

  it('may be stored as bfloat16', async () => {
    const half = withTensors(a, (tensors) => {
      for (const tensor of tensors.values()) {
        tensor.dtype = 'BF16'
        tensor.data = Buffer.from(tensor.data).filter((_, i) => i % 4 >= 2)
      }
    })
    const [exact] = (await read(a)).modules
    const [rounded] = (await read(half)).modules
    for (const [i, value] of rounded!.A.entries()) expect(Math.abs(value - exact!.A[i]!)).toBeLessThan(2 ** -7)
  })

  it('means PEFT’s defaults, r = 8 and lora_alpha = 8, where keys are absent', async () => {
    const config = JSON.parse(new TextDecoder().decode(a['adapter_config.json']))
    delete config.r
    await expectAllRanks({ ...a, 'adapter_config.json': JSON.stringify(config) }, 8)
    delete config.lora_alpha
    config.r = 5
    const adapter = await read({ ...a, 'adapter_config.json': JSON.stringify(config) })
    expect(adapter.modules[0]?.scaling).toBe(8 / 5)
  })

  async function expectAllRanks(files: Files, r: number) {
    const { problems } = await refusal(() => read(files))
    expect(problems.every(({ code, message }) => code === 'adapter-rank' && message.includes(`says r=${r}`))).toBe(true)
  }
})

describe('patterns', () => {
  const scalingOf = async (pattern: Record<string, number>, module: string) =>
    (await read(withConfig(a, { alpha_pattern: pattern }))).modules.find(({ linear }) => linear.module === module)
      ?.scaling

  it.each([
    ['q_proj', 'model.layers.1.self_attn.q_proj', true],
    ['layers.1.self_attn.q_proj', 'model.layers.1.self_attn.q_proj', true],
    ['model.layers.1.self_attn.q_proj', 'model.layers.1.self_attn.q_proj', true],
    ['layers.1.self.attn.q_proj', 'model.layers.1.self_attn.q_proj', true],
    ['layers.0.self_attn.q_proj', 'model.layers.1.self_attn.q_proj', false],
    ['proj', 'model.layers.1.self_attn.q_proj', false],
    ['attn.q_proj', 'model.layers.1.self_attn.q_proj', false],
  ])('the key %s against %s: %s', async (key, module, matches) => {
    expect(await scalingOf({ [key]: 31 }, module)).toBe(matches ? 31 / 5 : 12 / 5)
  })

  it('the first key of the file that matches wins', async () => {
    const module = 'model.layers.1.self_attn.q_proj'
    expect(await scalingOf({ q_proj: 31, 'layers.1.self_attn.q_proj': 37 }, module)).toBe(31 / 5)
    expect(await scalingOf({ 'layers.1.self_attn.q_proj': 37, q_proj: 31 }, module)).toBe(37 / 5)
  })

  it.each([
    ['.*q_proj', true],
    ['layers\\.1\\..*q_proj', true],
    ['^model.layers', false],
    ['^model.layers.*', true],
    ['k_proj|q_proj', true],
    ['(a+)+', false],
    ['[qk]_proj', true],
    ['model.(?!layers.0).*', true],
  ])('the regex %s against model.layers.1.self_attn.q_proj: %s', async (key, matches) => {
    const scaling = await scalingOf({ [key]: 31 }, 'model.layers.1.self_attn.q_proj')
    expect(scaling).toBe(matches ? 31 / 5 : 12 / 5)
  })

  it.each(['(?<=a)b', '(a)\\1', '(?i)q_proj', 'a*+', '(?>a)', 'q_proj)', '[a', 'a**', '\\p'])(
    'the key %s is outside the regexes that are run, and is refused',
    async (key) => {
      await expectRefusal(() => read(withConfig(a, { rank_pattern: { [key]: 5 } })), 'adapter-pattern', 'rank_pattern')
    },
  )
})

describe('a config that exists to waste time', () => {
  const many = (count: number, value: unknown) =>
    Object.fromEntries(Array.from({ length: count }, (_, i) => [`m${i}`, value]))

  it('may have 10,000 patterns and not one more', async () => {
    await expect(read(withConfig(a, { alpha_pattern: many(10_000, 3) }))).resolves.toBeDefined()
    await expectRefusal(
      () => read(withConfig(a, { alpha_pattern: many(10_001, 3) })),
      'config-invalid',
      'alpha_pattern',
    )
  })

  it('may have one MiB and not one byte more', async () => {
    const config = text(a['adapter_config.json'])
    const sized = (bytes: number) => read({ ...a, 'adapter_config.json': config.padEnd(bytes, ' ') })
    await expect(sized(2 ** 20)).resolves.toBeDefined()
    await expectRefusal(() => sized(2 ** 20 + 1), 'file-too-large', 'at most 1048576')
  })
})

describe('an option that is not honoured is refused by name', () => {
  it.each<[string, unknown]>([
    ['init_lora_weights', 'pissa'],
    ['init_lora_weights', 'pissa_niter_16'],
    ['init_lora_weights', 'olora'],
    ['init_lora_weights', 'corda'],
    ['init_lora_weights', 'lora_ga'],
    ['init_lora_weights', 'loftq'],
    ['init_lora_weights', 'from_the_future'],
    ['layer_replication', [[0, 2]]],
    ['target_parameters', ['experts.0']],
    ['alora_invocation_tokens', [1, 2]],
    ['use_qalora', true],
    ['qalora_group_size', 32],
    ['megatron_config', { a: 1 }],
    ['megatron_core', 'mine'],
    ['use_bdlora', { nblocks: 2 }],
    ['kasa_config', { beta: 1 }],
    ['velora_config', { num_groups: 64 }],
    ['monteclora_config', { num_samples: 8 }],
    ['arrow_config', { top_k: 3 }],
    ['peft_type', 'IA3'],
    ['something_from_the_future', 'on'],
    ['__proto__x', 1],
  ])('%s = %j', async (key, value) => {
    await expectRefusal(() => read(withConfig(a, { [key]: value })), 'adapter-option', 'adapter "x"', key)
  })

  it('a key called __proto__ is one more unknown key', async () => {
    const text = new TextDecoder().decode(a['adapter_config.json']).replace('{', '{"__proto__":{"r":1},')
    await expectRefusal(() => read({ ...a, 'adapter_config.json': text }), 'adapter-option', '__proto__')
  })

  it('a duplicate key is refused, not resolved', async () => {
    const text = new TextDecoder().decode(a['adapter_config.json']).replace('{', '{"r":5,')
    await expectRefusal(() => read({ ...a, 'adapter_config.json': text }), 'json-invalid', 'duplicate key "r"')
  })

  it.each([
    [{ r: 0 }],
    [{ r: -1 }],
    [{ r: 2.5 }],
    [{ r: '8' }],
    [{ r: 70_000 }],
    [{ lora_alpha: 0 }],
    [{ lora_alpha: null }],
    [{ lora_alpha: '16' }],
    [{ use_rslora: 'yes' }],
    [{ rank_pattern: { q_proj: 0 } }],
    [{ target_modules: 3 }],
    [{ bias: 'some' }],
    [{ use_dora: 'yes' }],
    [{ trainable_token_indices: [-1] }],
    [{ layers_pattern: 'layers' }],
    [{ layers_to_transform: [0], target_modules: '.*' }],
    [{ modules_to_save: Array.from({ length: 257 }, (_, i) => `m${i}`) }],
  ])('%j is no value for that key', async (change) => {
    await expectRefusal(
      () => read(withConfig(a, change)),
      'config-invalid',
      'adapter_config.json',
      Object.keys(change)[0]!,
    )
  })
})

describe('tensors and config must tell one story', () => {
  const cases: [string, ProblemCode, string[], () => Files][] = [
    [
      'a rank that the config denies',
      'adapter-rank',
      ['q_proj.lora_A has r=4 but adapter_config.json says r=5', 're-export'],
      () =>
        withTensors(a, (tensors) => {
          const A = tensors.get(`${Q0}.lora_A.weight`)!
          tensors.set(`${Q0}.lora_A.weight`, { ...A, shape: [4, 48], data: A.data.slice(0, 4 * 48 * 4) })
        }),
    ],
    [
      'lora_A without lora_B',
      'adapter-pair',
      ['layers.0.self_attn.q_proj has lora_A but no lora_B'],
      () => withTensors(a, (tensors) => tensors.delete(`${Q0}.lora_B.weight`)),
    ],
    [
      'lora_B without lora_A',
      'adapter-pair',
      ['has lora_B but no lora_A'],
      () => withTensors(a, (tensors) => tensors.delete(`${Q0}.lora_A.weight`)),
    ],
    [
      'a target without tensors in one layer',
      'adapter-target',
      ['target_modules covers model.layers.0.self_attn.q_proj but there are no tensors'],
      () =>
        withTensors(a, (tensors) => {
          tensors.delete(`${Q0}.lora_A.weight`)
          tensors.delete(`${Q0}.lora_B.weight`)
        }),
    ],
    [
      'a target that the base does not have',
      'adapter-target',
      ['"c_attn"', 'none of the linears'],
      () => withConfig(b, { target_modules: ['q_proj', 'v_proj', 'down_proj', 'c_attn'] }),
    ],
    [
      'the head as a target',
      'adapter-target',
      ['"lm_head"', "none of the linears of the base's layers"],
      () => withConfig(b, { target_modules: ['q_proj', 'v_proj', 'down_proj', 'lm_head'] }),
    ],
    [
      'NaN',
      'tensor-not-finite',
      ['layers.0.self_attn.q_proj.lora_B', 'NaN'],
      () =>
        withTensors(a, (tensors) => {
          tensors.get(`${Q0}.lora_B.weight`)!.data.set(float32([Number.NaN]), 40)
        }),
    ],
    [
      'infinity',
      'tensor-not-finite',
      ['layers.0.self_attn.q_proj.lora_A'],
      () =>
        withTensors(a, (tensors) => {
          tensors.get(`${Q0}.lora_A.weight`)!.data.set(float32([Number.NEGATIVE_INFINITY]), 0)
        }),
    ],
    [
      'integers',
      'tensor-dtype',
      ['q_proj.lora_A.weight" is I32'],
      () =>
        withTensors(withConfig(a, { target_modules: null }), (tensors) => {
          for (const key of [...tensors.keys()]) if (!key.startsWith(Q0)) tensors.delete(key)
          tensors.delete(`${Q0}.lora_B.weight`)
          tensors.get(`${Q0}.lora_A.weight`)!.dtype = 'I32'
        }),
    ],
    [
      'the same factor twice',
      'tensor-unknown',
      ['q_proj.lora_A.default.weight', 'is there twice'],
      () =>
        withTensors(a, (tensors) => {
          tensors.set(`${Q0}.lora_A.default.weight`, tensors.get(`${Q0}.lora_A.weight`)!)
        }),
    ],
    [
      'a pickle only',
      'adapter-format',
      ['adapter_model.bin', 'safe_serialization=True'],
      () => ({
        'adapter_config.json': a['adapter_config.json']!,
        'adapter_model.bin': 'PK',
      }),
    ],
    [
      'no weights',
      'file-missing',
      ['adapter_model.safetensors'],
      () => ({
        'adapter_config.json': a['adapter_config.json']!,
      }),
    ],
    [
      'no config',
      'file-missing',
      ['adapter_config.json'],
      () => ({
        'adapter_model.safetensors': a['adapter_model.safetensors']!,
      }),
    ],
    [
      'no tensors',
      'tensor-missing',
      ['has no tensors'],
      () => withTensors(withConfig(a, { target_modules: null }), (tensors) => tensors.clear()),
    ],
    [
      'weights cut short',
      'safetensors-invalid',
      ['adapter_model.safetensors'],
      () => ({
        ...a,
        'adapter_model.safetensors': a['adapter_model.safetensors']!.slice(0, -1),
      }),
    ],
  ]
  it.each(cases)('refuses %s', async (_, code, words, files) => {
    await expectRefusal(() => read(files()), code, ...words)
  })

  it.each<[ProblemCode, string, string]>([
    ['adapter-pair', 'q_proj has lora_magnitude_vector', 'model.layers.0.self_attn.q_proj.lora_magnitude_vector'],
    ['adapter-pair', 'q_proj has lora_B.bias', 'model.layers.0.self_attn.q_proj.lora_B.bias'],
    ['adapter-pair', 'embed_tokens has lora_A but no lora_B', 'model.embed_tokens.lora_embedding_A'],
    ['adapter-target', '"lm_head.weight"', 'lm_head.weight'],
    ['tensor-unknown', 'lora_C', 'model.layers.0.self_attn.q_proj.lora_C.weight'],
    ['adapter-target', 'q_proj.weightless', 'model.layers.0.self_attn.q_proj.weightless'],
    ['tensor-unknown', 'lora_A', '../model.layers.0.self_attn.q_proj.lora_A.weight'],
    ['tensor-unknown', '__proto__', '../__proto__'],
    ['tensor-unknown', 'xxxx', 'x'.repeat(1024)],
  ])('refuses as %s: %s', async (code, words, path) => {
    const name = path.startsWith('../') ? path.slice(3) : `base_model.model.${path}`
    const files = withTensors(a, (tensors) => tensors.set(name, { dtype: 'F32', shape: [1], data: float32([1]) }))
    await expectRefusal(() => read(files), code, words)
  })

  it('refuses what an ONNX target cannot take of a linear, and says what to do', async () => {
    const dora = withTensors(withConfig(a, { use_dora: true }), (tensors) => {
      for (const key of [...tensors.keys()].filter((key) => key.includes('lora_B'))) {
        const [out = 0] = tensors.get(key)!.shape
        const data = float32(new Array(out).fill(1))
        tensors.set(key.replace('lora_B.weight', 'lora_magnitude_vector'), { dtype: 'F32', shape: [out], data })
      }
    })
    const { problems } = await refusal(() => read(dora))
    expect(problems).toHaveLength(linears.length)
    expect(problems[0]?.message).toContain('q_proj is DoRA (use_dora), which an ONNX target cannot take; merge it')
    const saved = withTensors(a, (tensors) => {
      tensors.set(`${Q0}.base_layer.weight`, { dtype: 'F32', shape: [48, 48], data: new Uint8Array(48 * 48 * 4) })
    })
    await expectRefusal(() => read(saved), 'adapter-option', 'q_proj is replaced (saved whole)', 'merge it')
  })

  it('refuses an adapter for a base of another width', async () => {
    const files = withTensors(b, (tensors) => {
      for (const key of [...tensors.keys()]) {
        if (key.includes('v_proj.lora_A')) tensors.set(key, { dtype: 'F32', shape: [3, 64], data: new Uint8Array(768) })
      }
    })
    const { problems } = await refusal(() => read(files))
    expect(problems.map(({ code }) => code)).toEqual(['adapter-base', 'adapter-base'])
    expect(problems[0]?.message).toContain("lora_A [3,64] and lora_B [24,3] but the base's linear is 48 → 24")
    expect(problems[0]?.message).toContain('another base')
  })

  it('refuses an adapter for a base with more layers', async () => {
    const files = withTensors(withConfig(b, { target_modules: null }), (tensors) => {
      for (const factor of ['lora_A', 'lora_B']) {
        move(tensors, `${Q0}.${factor}.weight`, `${Q0.replace('.0.', '.7.')}.${factor}.weight`)
      }
    })
    await expectRefusal(() => read(files), 'adapter-base', '"model.layers.7.self_attn.q_proj"', 'another base')
  })

  it('refuses tensors that no target names', async () => {
    const { problems } = await refusal(() => read(withConfig(b, { target_modules: ['q_proj', 'v_proj'] })))
    expect(problems.map(({ code }) => code)).toEqual(['adapter-target', 'adapter-target'])
    expect(problems[0]?.message).toContain('down_proj has tensors but target_modules does not name it')
  })

  it('reports all problems of all adapters at once, and writes nothing', async () => {
    const bad = withTensors(withConfig(a, { use_qalora: true, arrow_config: { top_k: 1 } }), (tensors) => {
      tensors.delete(`${Q0}.lora_B.weight`)
    })
    const out = memoryOut()
    const adapters = [
      { name: 'one', folder: memoryFolder('one', bad) },
      { name: 'two', folder: memoryFolder('two', withConfig(b, { r: 4 })) },
      { name: 'Bad Name', folder: memoryFolder('three', b) },
    ]
    const error = await refusal(() => compile({ base, adapters, target: 'routed' }, out, nodeHost))
    expect(new Set(error.problems.map(({ code }) => code))).toEqual(
      new Set(['adapter-option', 'adapter-pair', 'adapter-rank', 'adapter-name']),
    )
    expect(error.message).toContain('"use_qalora"')
    expect(error.message).toContain('"arrow_config"')
    expect(error.message).toContain('says r=4')
    expect(out.files.size).toBe(0)
  })

  it('stops listing after fifty problems and says how many more there are', async () => {
    const files = withTensors(a, (tensors) => {
      for (let i = 0; i < 1000; i += 1) tensors.set(`junk.${i}`, { dtype: 'U8', shape: [0], data: new Uint8Array() })
    })
    const { problems } = await refusal(() => read(files))
    expect(problems).toHaveLength(51)
    expect(problems.at(-1)?.message).toContain('950 more')
  })
})

describe('names and weights', () => {
  const compileWith = (adapters: { name: string; weight?: number }[], target: 'routed' | 'merged') =>
    compile(
      { base, adapters: adapters.map((given) => ({ folder: memoryFolder('b', b), ...given })), target },
      memoryOut(),
      nodeHost,
    )

  it.each(['', 'A', '-a', '.a', 'a/b', '../a', 'a b', 'é', 'a'.repeat(65), '__base__'])(
    'refuses the name "%s"',
    async (name) => {
      await expectRefusal(() => compileWith([{ name }], 'routed'), 'adapter-name')
    },
  )

  it('accepts a name of 64 characters', async () => {
    await expect(compileWith([{ name: 'a'.repeat(64) }], 'routed')).resolves.toBeDefined()
  })

  it('refuses one name for two adapters', async () => {
    await expectRefusal(() => compileWith([{ name: 'a' }, { name: 'a' }], 'routed'), 'adapter-name', 'given twice')
  })

  it.each([Number.NaN, Number.POSITIVE_INFINITY, 0])('refuses the weight %s', async (weight) => {
    await expectRefusal(() => compileWith([{ name: 'a', weight }], 'merged'), 'adapter-weight')
  })

  it('refuses a weight where adapters are routed', async () => {
    await expectRefusal(() => compileWith([{ name: 'a', weight: 0.5 }], 'routed'), 'adapter-weight', 'target "merged"')
  })
})
