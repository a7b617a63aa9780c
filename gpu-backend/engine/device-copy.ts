// The one kernel that is ours: lines of one buffer into wider lines of another, on the device. It appends a step's keys
// and values to the cache, and lays a cache out anew when its capacity changes.
//
//   to[line·toWidth + begin(row) + x] = from[line·fromWidth + x]     x < count(row),  row = line / linesPerRow
//
// What is not finite becomes zero there, and the row is flagged: NaN would survive the mask of every later step.

export interface Lines {
  readonly linesPerRow: number
  readonly fromWidth: number
  readonly toWidth: number
}

/** Per row, in elements of a line. */
export interface Span {
  readonly begin: number
  readonly count: number
}

const WORKGROUP = 64
/** The smallest limit that a device may have; longer work loops. */
const MAX_WORKGROUPS = 65_535

// NaN and the infinities are told by their bits: compilers of shaders may assume that there are none.
const SHADER = `
struct Lines { total: u32, linesPerRow: u32, fromWidth: u32, toWidth: u32 }
@group(0) @binding(0) var<uniform> lines: Lines;
@group(0) @binding(1) var<storage, read> spans: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> broken: array<atomic<u32>>;
@group(0) @binding(3) var<storage, read> source: array<u32>;
@group(0) @binding(4) var<storage, read_write> target_: array<u32>;

@compute @workgroup_size(${WORKGROUP})
fn copy(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var at = id.x; at < lines.total; at += groups.x * ${WORKGROUP}u) {
    let line = at / lines.fromWidth;
    let x = at % lines.fromWidth;
    let row = line / lines.linesPerRow;
    let span = spans[row];
    if (x >= span.y) { continue; }
    var bits = source[at];
    if ((bits & 0x7f800000u) == 0x7f800000u) {
      bits = 0u;
      atomicStore(&broken[row], 1u);
    }
    target_[line * lines.toWidth + span.x + x] = bits;
  }
}
`

/** What all copies of one kind share: shapes, spans and flags. */
export interface CopyPlan {
  readonly workgroups: number
  readonly entries: readonly GPUBindGroupEntry[]
  /** One a row: not 0 where something was not finite. */
  readonly broken: GPUBuffer
  destroy(): void
}

export class DeviceCopy {
  readonly #device: GPUDevice
  readonly #pipeline: GPUComputePipeline

  constructor(device: GPUDevice) {
    this.#device = device
    const module = device.createShaderModule({ code: SHADER })
    this.#pipeline = device.createComputePipeline({ layout: 'auto', compute: { module, entryPoint: 'copy' } })
  }

  plan({ linesPerRow, fromWidth, toWidth }: Lines, spans: readonly Span[], broken?: GPUBuffer): CopyPlan {
    const total = spans.length * linesPerRow * fromWidth
    const lines = this.#filled(Uint32Array.of(total, linesPerRow, fromWidth, toWidth), GPUBufferUsage.UNIFORM)
    const pairs = Uint32Array.from(spans.flatMap(({ begin, count }) => [begin, count]))
    const spanBuffer = this.#filled(pairs, GPUBufferUsage.STORAGE)
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC
    const flags = broken ?? this.#device.createBuffer({ size: spans.length * 4, usage })
    return {
      workgroups: Math.min(Math.ceil(total / WORKGROUP), MAX_WORKGROUPS),
      entries: [lines, spanBuffer, flags].map((buffer, binding) => ({ binding, resource: { buffer } })),
      broken: flags,
      destroy() {
        for (const buffer of [lines, spanBuffer]) buffer.destroy()
        if (broken === undefined) flags.destroy()
      },
    }
  }

  encode(pass: GPUComputePassEncoder, plan: CopyPlan, from: GPUBuffer, to: GPUBuffer): void {
    const entries = [
      ...plan.entries,
      { binding: 3, resource: { buffer: from } },
      { binding: 4, resource: { buffer: to } },
    ]
    pass.setPipeline(this.#pipeline)
    pass.setBindGroup(0, this.#device.createBindGroup({ layout: this.#pipeline.getBindGroupLayout(0), entries }))
    pass.dispatchWorkgroups(plan.workgroups)
  }

  #filled(values: Uint32Array<ArrayBuffer>, usage: GPUBufferUsageFlags): GPUBuffer {
    const buffer = this.#device.createBuffer({ size: values.byteLength, usage: usage | GPUBufferUsage.COPY_DST })
    this.#device.queue.writeBuffer(buffer, 0, values)
    return buffer
  }
}
