// The folder of an encoder: what its configuration and its tensors must be, and what an adapter may change.
import { describe, expect, it } from 'vitest'
import type { AdapterInput } from '../../compiler/adapter/read-changes.ts'
import { compileEncoder } from '../../compiler/encoder/compile.ts'
import { openEncoder } from '../../compiler/encoder/open.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { expectRefusal, refusal } from '../compiler/failing.ts'
import { ADAPTER_FILES, loadFiles, memoryFolder, memoryOut } from '../compiler/folders.ts'
import { editRaw, float32, type RawTensor } from '../compiler/safetensors-file.ts'
import { TINY_NAMES, type TinyName, tinyAdapter, tinyPath } from './encoders.ts'

const CONFIG = 'config.json'
const WEIGHTS = 'model.safetensors'

async function folderOf(name: TinyName, change: (config: Record<string, unknown>) => void, weights?: Uint8Array) {
  const files = await loadFiles(tinyPath(name), [CONFIG, WEIGHTS])
  const config = JSON.parse(new TextDecoder().decode(files[CONFIG]))
  change(config)
  return memoryFolder(name, { ...files, [CONFIG]: JSON.stringify(config), ...(weights && { [WEIGHTS]: weights }) })
}

const editTensors = async (name: TinyName, edit: Parameters<typeof editRaw>[1]) =>
  editRaw((await loadFiles(tinyPath(name), [WEIGHTS]))[WEIGHTS]!, edit)

const openWith = (name: TinyName, change: (config: Record<string, unknown>) => void) => async () =>
  (await openEncoder(await folderOf(name, change))).close()

describe('a configuration that would change a number', () => {
  it.each([
    ['bert', 'position_embedding_type', 'relative_key', 'only absolute positions'],
    ['bert', 'is_decoder', true, 'is_decoder'],
    ['bert', 'quantization_config', { bits: 4 }, 'quantised'],
    ['modernbert', 'rope_scaling', { type: 'yarn' }, 'rope_scaling'],
    ['bert', 'architectures', ['BertForTokenClassification'], 'BertForTokenClassification'],
  ] as const)('%s: %s is refused by name', (name, key, value, word) =>
    expectRefusal(
      openWith(name, (config) => {
        config[key] = value
      }),
      'config-unsupported',
      word,
    ),
  )

  it.each([
    ['bert', 'hidden_act', 'mish', 'hidden_act'],
    ['bert', 'hidden_size', 0, 'hidden_size'],
    ['bert', 'num_hidden_layers', 1e9, 'num_hidden_layers'],
    ['bert', 'num_attention_heads', 3, '3 heads'],
    ['modernbert', 'layer_types', ['full_attention'], '1 entries for 4 layers'],
    ['modernbert', 'num_attention_heads', 4, 'even'],
  ] as const)('%s: %s = %s is no configuration', (name, key, value, word) =>
    expectRefusal(
      openWith(name, (config) => {
        config[key] = value
      }),
      'config-invalid',
      word,
    ),
  )

  it('labels that are not numbered from 0 are refused', () =>
    expectRefusal(
      openWith('bert-classifier', (config) => {
        config.id2label = { 0: 'a', 1: 'b', 3: 'c' }
      }),
      'config-invalid',
      'none for 2',
    ))
})

describe('the tensors of a checkpoint', () => {
  it('are all there, of the shapes that the configuration says, or named', async () => {
    const weights = await editTensors('bert', (tensors) => {
      tensors.delete('encoder.layer.1.output.dense.bias')
    })
    const folder = await folderOf(
      'bert',
      (config) => {
        config.type_vocab_size = 2
      },
      weights,
    )
    const { problems } = await refusal(() => openEncoder(folder))
    expect(problems.map(({ code }) => code)).toEqual(['tensor-shape', 'tensor-missing'])
  })

  it('of another head are named, and those of the training of an encoder left out', async () => {
    const add = (name: string) =>
      editTensors('bert', (tensors) => {
        tensors.set(name, tensors.get('pooler.dense.bias')!)
      })
    const stray = await folderOf('bert', () => {}, await add('regressor.bias'))
    await expectRefusal(() => openEncoder(stray), 'tensor-unknown', 'regressor.bias')
    const masked = await folderOf(
      'bert',
      (config) => {
        config.architectures = ['BertForMaskedLM']
      },
      await add('cls.predictions.bias'),
    )
    const opened = await openEncoder(masked)
    expect([...opened.tensors.keys()]).not.toContain('cls.predictions.bias')
    await opened.close()
  })

  it('may call a norm gamma and beta, as TensorFlow did, and are the same base', async () => {
    const weights = await editTensors('bert', (tensors) => {
      for (const [name, tensor] of [...tensors]) {
        if (!name.includes('LayerNorm')) continue
        tensors.delete(name)
        tensors.set(name.replace('.weight', '.gamma').replace('.bias', '.beta'), tensor)
      }
    })
    const compileOf = async (folder: Awaited<ReturnType<typeof folderOf>>) =>
      (await compileEncoder({ base: folder, adapters: [], target: 'routed' }, memoryOut(), nodeHost)).id
    expect(await compileOf(await folderOf('bert', () => {}, weights))).toBe(
      await compileOf(openFolder(tinyPath('bert'))),
    )
  })
})

/** A classifier with these labels, as a base or as what an adapter saved whole. */
function classifierTensors(labels: number, seed: number): [string, RawTensor][] {
  const draw = (count: number) => Array.from({ length: count }, (_, i) => Math.sin(seed + i * 1.7))
  return [
    ['classifier.weight', { dtype: 'F32', shape: [labels, 20], data: float32(draw(labels * 20)) }],
    ['classifier.bias', { dtype: 'F32', shape: [labels], data: float32(draw(labels)) }],
  ]
}

describe('a head that an adapter saved whole', () => {
  // Fewer labels than the width, as many as the rows of the weight, and more.
  it.each([2, 21, 33])('of %i labels is in the merged weights, to one rounding', async (labels) => {
    const path = tinyPath('bert-classifier')
    const id2label = Object.fromEntries(Array.from({ length: labels }, (_, label) => [label, `label ${label}`]))
    const baseWith = async (seed: number) => {
      const weights = await editTensors('bert-classifier', (tensors) => {
        for (const [name, tensor] of classifierTensors(labels, seed)) tensors.set(name, tensor)
      })
      const change = (config: Record<string, unknown>) => {
        config.id2label = id2label
      }
      return folderOf('bert-classifier', change, weights)
    }
    const files = await loadFiles(`${path}/adapters/narrow`, ADAPTER_FILES)
    const head = editRaw(files['adapter_model.safetensors']!, (tensors) => {
      for (const [name, tensor] of classifierTensors(labels, 5)) tensors.set(`base_model.model.${name}`, tensor)
    })
    const folder = memoryFolder('adapter', { ...files, 'adapter_model.safetensors': head })
    const classifierOf = async (seed: number, adapters: readonly AdapterInput[]) => {
      const out = memoryOut()
      const base = await baseWith(seed)
      const { manifest } = await compileEncoder({ base, adapters, target: 'merged' }, out, nodeHost)
      const bytes = 4 * labels * 21
      // It is the last weight of a BERT.
      const data = out.files.get('model.onnx_data')!.slice(-bytes)
      return { values: new Float32Array(data.buffer), manifest }
    }
    const merged = await classifierOf(2, [{ name: 'own', folder }])
    const wanted = await classifierOf(5, [])
    expect(merged.manifest.adapters[0]!.modules.classifier).toEqual({ r: Math.min(labels, 21), scaling: 1 })
    for (const [at, value] of wanted.values.entries()) {
      expect(Math.abs(merged.values[at]! - value)).toBeLessThanOrEqual(2 ** -22)
    }
  })
})

describe('an adapter', () => {
  it.each(TINY_NAMES)('of %s gives the same bytes twice, and every tensor of it is in the coverage', async (name) => {
    const make = async () => {
      const out = memoryOut()
      const adapters = [tinyAdapter(name, 'wide'), tinyAdapter(name, 'narrow')]
      return compileEncoder({ base: openFolder(tinyPath(name)), adapters, target: 'routed' }, out, nodeHost)
    }
    const [first, second] = [await make(), await make()]
    expect(first.id).toBe(second.id)
    const tensors = await Promise.all(
      ['narrow', 'wide'].map(async (adapter) => {
        const file = 'adapter_model.safetensors'
        const bytes = (await loadFiles(`${tinyPath(name)}/adapters/${adapter}`, [file]))[file]!
        const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true))
        const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)))
        return Object.keys(header).filter((key) => key !== '__metadata__')
      }),
    )
    const covered = first.manifest.coverage.map(({ tensor }) => tensor)
    expect(covered.toSorted()).toEqual(tensors.flat().toSorted())
  })

  it('of the encoder alone fits the model of a head, whose paths begin elsewhere', async () => {
    const adapters = [tinyAdapter('modernbert', 'narrow')]
    const base = openFolder(tinyPath('modernbert-classifier'))
    const { manifest } = await compileEncoder({ base, adapters, target: 'routed' }, memoryOut(), nodeHost)
    expect(Object.keys(manifest.adapters[0]!.modules)).toContain('model.layers.3.attn.Wqkv')
  })

  const compileClassifier = (target: 'merged' | 'stacked', weights: readonly [string, number][]) => () =>
    compileEncoder(
      {
        base: openFolder(tinyPath('bert-classifier')),
        adapters: weights.map(([name, weight]) => tinyAdapter('bert-classifier', name, weight)),
        target,
      },
      memoryOut(),
      nodeHost,
    )

  it('that has a head of its own takes weight 1 in a merge and in a stack', async () => {
    for (const target of ['merged', 'stacked'] as const) {
      await expectRefusal(compileClassifier(target, [['wide', 0.5]]), 'adapter-weight', 'classifier', '0.5')
    }
  })

  it('that has a head of its own does not share it with another', () =>
    expectRefusal(
      compileClassifier('merged', [
        ['wide', 1],
        ['narrow', 1],
      ]),
      'adapter-target',
      'classifier',
    ))
})
