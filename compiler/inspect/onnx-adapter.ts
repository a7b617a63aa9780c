// ONNX Runtime's .onnx_adapter file.
import { inputError } from '../errors.ts'
import type { ByteSource } from '../host.ts'
import { MAX_FILE_BYTES } from '../onnx-adapter/format.ts'
import { readOnnxAdapter } from '../onnx-adapter/read.ts'
import type { Inspection } from './inspection.ts'
import { modulesOf } from './safetensors.ts'

export async function inspectOnnxAdapter(file: ByteSource): Promise<Inspection> {
  if (file.size > MAX_FILE_BYTES) {
    throw inputError('file-too-large', `${file.name}: ${file.size} bytes; at most ${MAX_FILE_BYTES} are read`)
  }
  const adapter = readOnnxAdapter(await file.read(0, file.size), file.name)
  const { parameters } = adapter
  const shapes = parameters.map(({ name, dims }) => ({ name, shape: dims }))
  return {
    kind: 'onnx-adapter',
    name: file.name,
    facts: {
      format_version: adapter.formatVersion,
      adapter_version: adapter.adapterVersion,
      model_version: adapter.modelVersion,
      parameters: parameters.length,
      bytes: parameters.reduce((sum, { data }) => sum + data.length, 0),
    },
    tables: {
      modules: modulesOf(shapes, { A: '.lora_A.weight', B: '.lora_B.weight' }),
      parameters: parameters.map(({ name, dataType, dims, data }) => ({
        name,
        type: dataType,
        shape: dims,
        bytes: data.length,
      })),
    },
    notes: [
      'the format says neither which base it is for nor its rank, alpha or scaling; the last is in lora_B, if any',
    ],
  }
}
