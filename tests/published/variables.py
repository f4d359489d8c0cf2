"""The TensorFlow variables of the published models: the names and shapes of section H.5 of the 2018 reference.

Derived from that text by a script. Titles are as there: those that begin with G are the starter code's, the others the
2018 winner's. A title is followed by its variables as name[shape].
"""

from __future__ import annotations

TABLE = """\
LogisticModel
    fully_connected/weights[1152,7] fully_connected/biases[7]
MoeModel m=2
    gates/weights[1152,21] experts/weights[1152,14] experts/biases[14]
MoeModel m=3 lowrank=4
    gates1/weights[1152,4] gates2/weights[4,28] experts/weights[1152,21] experts/biases[21]
MoeModel m=2 prob-gating(prob)
    gates/weights[1152,21] experts/weights[1152,14] experts/biases[14] gating_prob_weights[7,7]
    gating_prob_bn/beta[7] gating_prob_bn/gamma[7] gating_prob_bn/moving_mean[7] gating_prob_bn/moving_variance[7]
MoeModel m=2 prob-gating(prob) remove_diag
    gates/weights[1152,21] experts/weights[1152,14] experts/biases[14] gating_prob_weights[7,7]
    gating_prob_bn/beta[7] gating_prob_bn/gamma[7] gating_prob_bn/moving_mean[7] gating_prob_bn/moving_variance[7]
MoeModel m=2 prob-gating(input)
    gates/weights[1152,21] experts/weights[1152,14] experts/biases[14] gating_prob_weights[1152,7]
    gating_prob_bn/beta[7] gating_prob_bn/gamma[7] gating_prob_bn/moving_mean[7] gating_prob_bn/moving_variance[7]
FrameLevelLogisticModel
    fully_connected/weights[1152,7] fully_connected/biases[7]
DbofModel relu6 max +Logistic
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    cluster_weights[1152,16] cluster_bn/beta[16] cluster_bn/gamma[16] cluster_bn/moving_mean[16]
    cluster_bn/moving_variance[16] hidden1_weights[16,6] hidden1_bn/beta[6] hidden1_bn/gamma[6]
    hidden1_bn/moving_mean[6] hidden1_bn/moving_variance[6] fully_connected/weights[6,7] fully_connected/biases[7]
DbofModel relu6 average +Logistic
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    cluster_weights[1152,16] cluster_bn/beta[16] cluster_bn/gamma[16] cluster_bn/moving_mean[16]
    cluster_bn/moving_variance[16] hidden1_weights[16,6] hidden1_bn/beta[6] hidden1_bn/gamma[6]
    hidden1_bn/moving_mean[6] hidden1_bn/moving_variance[6] fully_connected/weights[6,7] fully_connected/biases[7]
NetVLADModelLF K=8 H=6 norelu gating MoE prob-gating
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    video_VLAD/cluster_weights[1024,8] video_VLAD/cluster_bn/beta[8] video_VLAD/cluster_bn/gamma[8]
    video_VLAD/cluster_bn/moving_mean[8] video_VLAD/cluster_bn/moving_variance[8]
    video_VLAD/cluster_weights2[1,1024,8] audio_VLAD/cluster_weights[128,4] audio_VLAD/cluster_bn/beta[4]
    audio_VLAD/cluster_bn/gamma[4] audio_VLAD/cluster_bn/moving_mean[4] audio_VLAD/cluster_bn/moving_variance[4]
    audio_VLAD/cluster_weights2[1,128,4] hidden1_weights[8704,6] hidden1_biases[6] gating_weights_2[6,6]
    gating_bn/beta[6] gating_bn/gamma[6] gating_bn/moving_mean[6] gating_bn/moving_variance[6] gates/weights[6,21]
    experts/weights[6,14] experts/biases[14] gating_prob_weights[7,7] gating_prob_bn/beta[7] gating_prob_bn/gamma[7]
    gating_prob_bn/moving_mean[7] gating_prob_bn/moving_variance[7]
NetVLADModelLF K=8 H=6 relu nogating MoE
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    video_VLAD/cluster_weights[1024,8] video_VLAD/cluster_bn/beta[8] video_VLAD/cluster_bn/gamma[8]
    video_VLAD/cluster_bn/moving_mean[8] video_VLAD/cluster_bn/moving_variance[8]
    video_VLAD/cluster_weights2[1,1024,8] audio_VLAD/cluster_weights[128,4] audio_VLAD/cluster_bn/beta[4]
    audio_VLAD/cluster_bn/gamma[4] audio_VLAD/cluster_bn/moving_mean[4] audio_VLAD/cluster_bn/moving_variance[4]
    audio_VLAD/cluster_weights2[1,128,4] hidden1_weights[8704,6] hidden1_bn/beta[6] hidden1_bn/gamma[6]
    hidden1_bn/moving_mean[6] hidden1_bn/moving_variance[6] gates/weights[6,21] experts/weights[6,14]
    experts/biases[14]
NetVLADModelLF lightvlad K=8 H=6 norelu gating MoE prob-gating
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    video_VLAD/cluster_weights[1024,8] video_VLAD/cluster_bn/beta[8] video_VLAD/cluster_bn/gamma[8]
    video_VLAD/cluster_bn/moving_mean[8] video_VLAD/cluster_bn/moving_variance[8] audio_VLAD/cluster_weights[128,4]
    audio_VLAD/cluster_bn/beta[4] audio_VLAD/cluster_bn/gamma[4] audio_VLAD/cluster_bn/moving_mean[4]
    audio_VLAD/cluster_bn/moving_variance[4] hidden1_weights[8704,6] hidden1_biases[6] gating_weights_2[6,6]
    gating_bn/beta[6] gating_bn/gamma[6] gating_bn/moving_mean[6] gating_bn/moving_variance[6] gates/weights[6,21]
    experts/weights[6,14] experts/biases[14] gating_prob_weights[7,7] gating_prob_bn/beta[7] gating_prob_bn/gamma[7]
    gating_prob_bn/moving_mean[7] gating_prob_bn/moving_variance[7]
NetVLADModelLF K=8 H=6 norelu gating remove_diag Logistic
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    video_VLAD/cluster_weights[1024,8] video_VLAD/cluster_bn/beta[8] video_VLAD/cluster_bn/gamma[8]
    video_VLAD/cluster_bn/moving_mean[8] video_VLAD/cluster_bn/moving_variance[8]
    video_VLAD/cluster_weights2[1,1024,8] audio_VLAD/cluster_weights[128,4] audio_VLAD/cluster_bn/beta[4]
    audio_VLAD/cluster_bn/gamma[4] audio_VLAD/cluster_bn/moving_mean[4] audio_VLAD/cluster_bn/moving_variance[4]
    audio_VLAD/cluster_weights2[1,128,4] hidden1_weights[8704,6] hidden1_biases[6] gating_weights_2[6,6]
    gating_bn/beta[6] gating_bn/gamma[6] gating_bn/moving_mean[6] gating_bn/moving_variance[6]
    fully_connected/weights[6,7] fully_connected/biases[7]
NetFVModelLF K=8 H=6 norelu uncoupled gating MoE prob-gating
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    video_FV/cluster_weights[1024,8] video_FV/covar_weights[1024,8] video_FV/cluster_bn/beta[8]
    video_FV/cluster_bn/gamma[8] video_FV/cluster_bn/moving_mean[8] video_FV/cluster_bn/moving_variance[8]
    video_FV/cluster_weights2[1,1024,8] audio_FV/cluster_weights[128,4] audio_FV/covar_weights[128,4]
    audio_FV/cluster_bn/beta[4] audio_FV/cluster_bn/gamma[4] audio_FV/cluster_bn/moving_mean[4]
    audio_FV/cluster_bn/moving_variance[4] audio_FV/cluster_weights2[1,128,4] hidden1_weights[17408,6]
    hidden1_biases[6] gating_weights_2[6,6] gating_bn/beta[6] gating_bn/gamma[6] gating_bn/moving_mean[6]
    gating_bn/moving_variance[6] gates/weights[6,21] experts/weights[6,14] experts/biases[14]
    gating_prob_weights[7,7] gating_prob_bn/beta[7] gating_prob_bn/gamma[7] gating_prob_bn/moving_mean[7]
    gating_prob_bn/moving_variance[7]
NetFVModelLF K=8 H=6 relu coupled(0.01) MoE
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    video_FV/cluster_weights[1024,8] video_FV/covar_weights[1024,8] video_FV/cluster_bn/beta[8]
    video_FV/cluster_bn/gamma[8] video_FV/cluster_bn/moving_mean[8] video_FV/cluster_bn/moving_variance[8]
    audio_FV/cluster_weights[128,4] audio_FV/covar_weights[128,4] audio_FV/cluster_bn/beta[4]
    audio_FV/cluster_bn/gamma[4] audio_FV/cluster_bn/moving_mean[4] audio_FV/cluster_bn/moving_variance[4]
    hidden1_weights[17408,6] hidden1_bn/beta[6] hidden1_bn/gamma[6] hidden1_bn/moving_mean[6]
    hidden1_bn/moving_variance[6] gates/weights[6,21] experts/weights[6,14] experts/biases[14]
SoftDbofModelLF K=16 H=6 norelu MoE
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    video_DBOF/cluster_weights[1024,16] video_DBOF/cluster_bn/beta[16] video_DBOF/cluster_bn/gamma[16]
    video_DBOF/cluster_bn/moving_mean[16] video_DBOF/cluster_bn/moving_variance[16]
    audio_DBOF/cluster_weights[128,2] audio_DBOF/cluster_bn/beta[2] audio_DBOF/cluster_bn/gamma[2]
    audio_DBOF/cluster_bn/moving_mean[2] audio_DBOF/cluster_bn/moving_variance[2] hidden1_weights[18,6]
    hidden1_biases[6] gates/weights[6,21] experts/weights[6,14] experts/biases[14]
SoftDbofModelLF K=16 H=6 norelu maxpool MoE
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    video_DBOF/cluster_weights[1024,16] video_DBOF/cluster_bn/beta[16] video_DBOF/cluster_bn/gamma[16]
    video_DBOF/cluster_bn/moving_mean[16] video_DBOF/cluster_bn/moving_variance[16]
    audio_DBOF/cluster_weights[128,2] audio_DBOF/cluster_bn/beta[2] audio_DBOF/cluster_bn/gamma[2]
    audio_DBOF/cluster_bn/moving_mean[2] audio_DBOF/cluster_bn/moving_variance[2] hidden1_weights[36,6]
    hidden1_biases[6] gates/weights[6,21] experts/weights[6,14] experts/biases[14]
GatedDbofModelLF K=16 H=6 norelu MoE
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    video_DBOF/cluster_weights[1024,16] video_DBOF/cluster_bn/beta[16] video_DBOF/cluster_bn/gamma[16]
    video_DBOF/cluster_bn/moving_mean[16] video_DBOF/cluster_bn/moving_variance[16] video_DBOF/dim_red[16,1024]
    video_DBOF/cluster_weights_2[1024,16] video_DBOF/cluster_bn_2/beta[16] video_DBOF/cluster_bn_2/gamma[16]
    video_DBOF/cluster_bn_2/moving_mean[16] video_DBOF/cluster_bn_2/moving_variance[16]
    audio_DBOF/cluster_weights[128,2] audio_DBOF/cluster_bn/beta[2] audio_DBOF/cluster_bn/gamma[2]
    audio_DBOF/cluster_bn/moving_mean[2] audio_DBOF/cluster_bn/moving_variance[2] hidden1_weights[18,6]
    hidden1_biases[6] gates/weights[6,21] experts/weights[6,14] experts/biases[14]
GatedDbofModelLF K=16 H=6 relu fc_dimred MoE
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    video_DBOF/cluster_weights[1024,16] video_DBOF/cluster_bn/beta[16] video_DBOF/cluster_bn/gamma[16]
    video_DBOF/cluster_bn/moving_mean[16] video_DBOF/cluster_bn/moving_variance[16] video_DBOF/dim_red[16,1024]
    video_DBOF/cluster_weights_2[1024,16] video_DBOF/cluster_bn_2/beta[16] video_DBOF/cluster_bn_2/gamma[16]
    video_DBOF/cluster_bn_2/moving_mean[16] video_DBOF/cluster_bn_2/moving_variance[16]
    audio_DBOF/cluster_weights[128,2] audio_DBOF/cluster_bn/beta[2] audio_DBOF/cluster_bn/gamma[2]
    audio_DBOF/cluster_bn/moving_mean[2] audio_DBOF/cluster_bn/moving_variance[2] hidden1_weights[18,6]
    hidden1_bn/beta[6] hidden1_bn/gamma[6] hidden1_bn/moving_mean[6] hidden1_bn/moving_variance[6]
    gates/weights[6,21] experts/weights[6,14] experts/biases[14]
GatedDbofModelLF K=16 no fc_dimred MoE
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    video_DBOF/cluster_weights[1024,16] video_DBOF/cluster_bn/beta[16] video_DBOF/cluster_bn/gamma[16]
    video_DBOF/cluster_bn/moving_mean[16] video_DBOF/cluster_bn/moving_variance[16] video_DBOF/dim_red[16,1024]
    video_DBOF/cluster_weights_2[1024,16] video_DBOF/cluster_bn_2/beta[16] video_DBOF/cluster_bn_2/gamma[16]
    video_DBOF/cluster_bn_2/moving_mean[16] video_DBOF/cluster_bn_2/moving_variance[16]
    audio_DBOF/cluster_weights[128,2] audio_DBOF/cluster_bn/beta[2] audio_DBOF/cluster_bn/gamma[2]
    audio_DBOF/cluster_bn/moving_mean[2] audio_DBOF/cluster_bn/moving_variance[2] gates/weights[18,21]
    experts/weights[18,14] experts/biases[14]
LstmModel 2x8 +Logistic
    rnn/multi_rnn_cell/cell_0/basic_lstm_cell/kernel[1160,32] rnn/multi_rnn_cell/cell_0/basic_lstm_cell/bias[32]
    rnn/multi_rnn_cell/cell_1/basic_lstm_cell/kernel[16,32] rnn/multi_rnn_cell/cell_1/basic_lstm_cell/bias[32]
    fully_connected/weights[8,7] fully_connected/biases[7]
Lstmbidirect 8 +Logistic
    bidirectional_rnn/fw/multi_rnn_cell/cell_0/basic_lstm_cell/kernel[1156,16]
    bidirectional_rnn/fw/multi_rnn_cell/cell_0/basic_lstm_cell/bias[16]
    bidirectional_rnn/bw/multi_rnn_cell/cell_0/basic_lstm_cell/kernel[1156,16]
    bidirectional_rnn/bw/multi_rnn_cell/cell_0/basic_lstm_cell/bias[16]
    rnn/multi_rnn_cell/cell_0/basic_lstm_cell/kernel[16,32] rnn/multi_rnn_cell/cell_0/basic_lstm_cell/bias[32]
    fully_connected/weights[8,7] fully_connected/biases[7]
GRUbidirect 8 +Logistic
    bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/gates/kernel[1156,8]
    bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/gates/bias[8]
    bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[1156,4]
    bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/candidate/bias[4]
    bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/gates/kernel[1156,8]
    bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/gates/bias[8]
    bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[1156,4]
    bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/candidate/bias[4]
    rnn/multi_rnn_cell/cell_0/gru_cell/gates/kernel[16,16] rnn/multi_rnn_cell/cell_0/gru_cell/gates/bias[16]
    rnn/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[16,8] rnn/multi_rnn_cell/cell_0/gru_cell/candidate/bias[8]
    fully_connected/weights[8,7] fully_connected/biases[7]
GRUbidirect 8 gating MoE prob-gating
    bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/gates/kernel[1156,8]
    bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/gates/bias[8]
    bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[1156,4]
    bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/candidate/bias[4]
    bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/gates/kernel[1156,8]
    bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/gates/bias[8]
    bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[1156,4]
    bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/candidate/bias[4]
    rnn/multi_rnn_cell/cell_0/gru_cell/gates/kernel[16,16] rnn/multi_rnn_cell/cell_0/gru_cell/gates/bias[16]
    rnn/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[16,8] rnn/multi_rnn_cell/cell_0/gru_cell/candidate/bias[8]
    gating_weights_2[8,8] gating_biases[8] gates/weights[8,21] experts/weights[8,14] experts/biases[14]
    gating_prob_weights[7,7] gating_prob_bn/beta[7] gating_prob_bn/gamma[7] gating_prob_bn/moving_mean[7]
    gating_prob_bn/moving_variance[7]
GRUbidirect_branchedBN +Logistic
    video_input_bn/gamma[1024] video_input_bn/beta[1024] video_input_bn/moving_mean[1024]
    video_input_bn/moving_variance[1024] audio_input_bn/gamma[128] audio_input_bn/beta[128]
    audio_input_bn/moving_mean[128] audio_input_bn/moving_variance[128] fully_connected/weights[1024,1024]
    fully_connected_1/weights[128,128] video_cluster_bn/gamma[1024] video_cluster_bn/beta[1024]
    video_cluster_bn/moving_mean[1024] video_cluster_bn/moving_variance[1024] audio_cluster_bn/gamma[128]
    audio_cluster_bn/beta[128] audio_cluster_bn/moving_mean[128] audio_cluster_bn/moving_variance[128]
    video/bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/gates/kernel[1536,1024]
    video/bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/gates/bias[1024]
    video/bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[1536,512]
    video/bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/candidate/bias[512]
    video/bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/gates/kernel[1536,1024]
    video/bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/gates/bias[1024]
    video/bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[1536,512]
    video/bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/candidate/bias[512]
    video/rnn/multi_rnn_cell/cell_0/gru_cell/gates/kernel[2048,2048]
    video/rnn/multi_rnn_cell/cell_0/gru_cell/gates/bias[2048]
    video/rnn/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[2048,1024]
    video/rnn/multi_rnn_cell/cell_0/gru_cell/candidate/bias[1024]
    audio/bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/gates/kernel[192,128]
    audio/bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/gates/bias[128]
    audio/bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[192,64]
    audio/bidirectional_rnn/fw/multi_rnn_cell/cell_0/gru_cell/candidate/bias[64]
    audio/bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/gates/kernel[192,128]
    audio/bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/gates/bias[128]
    audio/bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[192,64]
    audio/bidirectional_rnn/bw/multi_rnn_cell/cell_0/gru_cell/candidate/bias[64]
    audio/rnn/multi_rnn_cell/cell_0/gru_cell/gates/kernel[256,256]
    audio/rnn/multi_rnn_cell/cell_0/gru_cell/gates/bias[256]
    audio/rnn/multi_rnn_cell/cell_0/gru_cell/candidate/kernel[256,128]
    audio/rnn/multi_rnn_cell/cell_0/gru_cell/candidate/bias[128] fully_connected_2/weights[1152,7]
    fully_connected_2/biases[7]
attention_frames_v0
    video_input_bn/gamma[1024] video_input_bn/beta[1024] video_input_bn/moving_mean[1024]
    video_input_bn/moving_variance[1024] audio_input_bn/gamma[128] audio_input_bn/beta[128]
    audio_input_bn/moving_mean[128] audio_input_bn/moving_variance[128] fully_connected/weights[1024,2048]
    fully_connected_1/weights[128,256] video_cluster_bn/gamma[2048] video_cluster_bn/beta[2048]
    video_cluster_bn/moving_mean[2048] video_cluster_bn/moving_variance[2048] audio_cluster_bn/gamma[256]
    audio_cluster_bn/beta[256] audio_cluster_bn/moving_mean[256] audio_cluster_bn/moving_variance[256]
    fully_connected_2/weights[1024,1] fully_connected_3/weights[128,1] fully_connected_4/weights[2304,7]
    fully_connected_4/biases[7]
G LogisticModel
    fully_connected/weights[1152,7] fully_connected/biases[7]
G MoeModel m=2
    gates/weights[1152,21] experts/weights[1152,14] experts/biases[14]
G FrameLevelLogisticModel
    fully_connected/weights[1152,7] fully_connected/biases[7]
G DbofModel sigmoid max K=16 H=6 MoE
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    cluster_weights[1152,16] cluster_bn/beta[16] cluster_bn/gamma[16] cluster_bn/moving_mean[16]
    cluster_bn/moving_variance[16] hidden1_weights[16,6] hidden1_bn/beta[6] hidden1_bn/gamma[6]
    hidden1_bn/moving_mean[6] hidden1_bn/moving_variance[6] gates/weights[6,21] experts/weights[6,14]
    experts/biases[14]
G DbofModel relu6 average K=16 H=6 MoE
    input_bn/beta[1152] input_bn/gamma[1152] input_bn/moving_mean[1152] input_bn/moving_variance[1152]
    cluster_weights[1152,16] cluster_bn/beta[16] cluster_bn/gamma[16] cluster_bn/moving_mean[16]
    cluster_bn/moving_variance[16] hidden1_weights[16,6] hidden1_bn/beta[6] hidden1_bn/gamma[6]
    hidden1_bn/moving_mean[6] hidden1_bn/moving_variance[6] gates/weights[6,21] experts/weights[6,14]
    experts/biases[14]
G DbofModel relu6 max nobn K=16 H=6 Logistic
    cluster_weights[1152,16] cluster_biases[16] hidden1_weights[16,6] hidden1_biases[6] fully_connected/weights[6,7]
    fully_connected/biases[7]
G LstmModel 2x8 MoE
    rnn/multi_rnn_cell/cell_0/basic_lstm_cell/kernel[1160,32] rnn/multi_rnn_cell/cell_0/basic_lstm_cell/bias[32]
    rnn/multi_rnn_cell/cell_1/basic_lstm_cell/kernel[16,32] rnn/multi_rnn_cell/cell_1/basic_lstm_cell/bias[32]
    gates/weights[8,21] experts/weights[8,14] experts/biases[14]
"""


def parse_table(table: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shape of every variable by the title of its model and its name."""
    models: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in table.splitlines():
        if not line.startswith(" "):
            variables = models.setdefault(line, {})
            continue
        for entry in line.split():
            name, _, shape = entry.removesuffix("]").partition("[")
            variables[name] = tuple(int(size) for size in shape.split(","))
    return models


VARIABLES = parse_table(TABLE)
