// What OpenAI's Node client makes of the endpoint at process.argv[2], as one JSON object.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const model = "base";
const messages = [{ role: "user", content: "What is the capital of Italy?" }];
const weather = {
  name: "get_weather",
  description: "Weather of a city.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

async function chat() {
  const done = await client.chat.completions.create({ model, messages, temperature: 0 });
  return { text: done.choices[0].message.content, thought: done.choices[0].message.reasoning_content };
}

async function chatStream() {
  const options = { stream: true, stream_options: { include_usage: true } };
  let text = "", usage = null, pieces = 0;
  for await (const chunk of await client.chat.completions.create({ model, messages, temperature: 0, ...options })) {
    const gained = chunk.choices[0]?.delta?.content ?? "";
    text += gained;
    pieces += gained ? 1 : 0;
    usage = chunk.usage ?? usage;
  }
  return { text, pieces, tokens: usage.completion_tokens };
}

async function tools() {
  const asked = [{ role: "user", content: "What is the weather in Rome?" }];
  const how = { model, temperature: 0, tools: [{ type: "function", function: weather }] };
  const first = await client.chat.completions.create({ ...how, messages: asked });
  const call = first.choices[0].message.tool_calls[0];
  const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
  const second = await client.chat.completions.create({ ...how, messages: [...asked, first.choices[0].message, result] });
  return { name: call.function.name, arguments: JSON.parse(call.function.arguments), finish: second.choices[0].finish_reason };
}

async function responses() {
  const done = await client.responses.create({ model, input: messages[0].content, temperature: 0 });
  return { text: done.output_text, items: done.output.map((item) => item.type), status: done.status };
}

async function responsesStream() {
  const kinds = [];
  let text = "";
  for await (const event of await client.responses.create({ model, input: messages, temperature: 0, stream: true })) {
    kinds.push(event.type);
    text += event.type === "response.output_text.delta" ? event.delta : "";
  }
  return { text, first: kinds[0], last: kinds.at(-1) };
}

async function responsesTools() {
  const input = [{ role: "user", content: "What is the weather in Rome?" }];
  const how = { model, temperature: 0, tools: [{ type: "function", ...weather }] };
  const first = await client.responses.create({ ...how, input });
  const call = first.output.find((item) => item.type === "function_call");
  const result = { type: "function_call_output", call_id: call.call_id, output: "sunny" };
  const second = await client.responses.create({ ...how, input: [...input, ...first.output, result] });
  return { name: call.name, arguments: JSON.parse(call.arguments), status: second.status };
}

async function completions() {
  const asked = { model, prompt: ["Rome is", "Paris is"], max_tokens: 4, temperature: 0 };
  const done = await client.completions.create(asked);
  const streamed = ["", ""];
  for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
    for (const choice of chunk.choices) streamed[choice.index] += choice.text;
  }
  return { whole: done.choices.map((choice) => choice.text), streamed };
}

async function models() {
  const names = [];
  for await (const each of client.models.list()) names.push(each.id);
  return names;
}

async function refused() {
  try {
    await client.chat.completions.create({ model: "gpt-4", messages });
  } catch (error) {
    return { name: error.constructor.name, status: error.status, param: error.param };
  }
}

const found = {};
for (const each of [chat, chatStream, tools, responses, responsesStream, responsesTools, completions, models, refused]) {
  found[each.name] = await each();
}
console.log(JSON.stringify(found));
