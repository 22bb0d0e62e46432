// Made by scripts/copy_pieces_ptx.sh from csrc/cuda/copy_pieces.cu. For every device since sm_75; the driver compiles
// it when it is first used.
#pragma once

namespace nano::cuda {

inline constexpr char kCopyPiecesPtx[] = R"ptx(
.version 7.0
.target sm_75
.address_size 64
.visible .entry nano_copy_pieces(
	.param .align 8 .b8 nano_copy_pieces_param_0[2600]
)
.maxntid 256, 1, 1
.minnctapersm 5
{
	.reg .pred 	%p<52>;
	.reg .b16 	%rs<54>;
	.reg .b32 	%r<324>;
	.reg .b64 	%rd<106>;
	// demoted variable
	.shared .align 8 .b8 _ZZ16nano_copy_piecesE6staged[3072];
	mov.b64 	%rd37, nano_copy_pieces_param_0;
	ld.param.u32 	%r106, [nano_copy_pieces_param_0+28];
	cvt.u64.u32 	%rd2, %r106;
	mov.u32 	%r1, %ctaid.x;
	add.s32 	%r107, %r1, 1;
	mul.wide.u32 	%rd3, %r106, %r107;
	mov.u32 	%r108, %nctaid.x;
	cvt.u64.u32 	%rd4, %r108;
	and.b64  	%rd38, %rd3, -4294967296;
	setp.eq.s64 	%p1, %rd38, 0;
	@%p1 bra 	$L__BB0_2;
	div.u64 	%rd98, %rd3, %rd4;
	bra.uni 	$L__BB0_3;
$L__BB0_2:
	cvt.u32.u64 	%r109, %rd4;
	cvt.u32.u64 	%r110, %rd3;
	div.u32 	%r111, %r110, %r109;
	cvt.u64.u32 	%rd98, %r111;
$L__BB0_3:
	cvt.u64.u32 	%rd39, %r1;
	mul.lo.s64 	%rd8, %rd2, %rd39;
	and.b64  	%rd40, %rd8, -4294967296;
	setp.eq.s64 	%p2, %rd40, 0;
	@%p2 bra 	$L__BB0_5;
	div.u64 	%rd99, %rd8, %rd4;
	bra.uni 	$L__BB0_6;
$L__BB0_5:
	cvt.u32.u64 	%r112, %rd4;
	cvt.u32.u64 	%r113, %rd8;
	div.u32 	%r114, %r113, %r112;
	cvt.u64.u32 	%rd99, %r114;
$L__BB0_6:
	ld.param.u32 	%r115, [%rd37+32];
	div.u32 	%r116, %r1, %r115;
	add.s32 	%r117, %r116, 1;
	mul.wide.u32 	%rd41, %r117, 4;
	add.s64 	%rd42, %rd37, 36;
	add.s64 	%rd43, %rd42, %rd41;
	mul.wide.u32 	%rd44, %r116, 4;
	add.s64 	%rd45, %rd42, %rd44;
	ld.param.u32 	%r271, [%rd45];
	ld.param.u32 	%r3, [%rd43];
	setp.gt.u32 	%p3, %r271, %r3;
	@%p3 bra 	$L__BB0_82;
	cvt.u32.u64 	%r4, %rd98;
	mov.u32 	%r118, %tid.y;
	ld.param.u64 	%rd12, [%rd37];
	cvt.u32.u64 	%r119, %rd99;
	add.s32 	%r323, %r118, %r119;
	cvta.to.global.u64 	%rd13, %rd12;
$L__BB0_8:
	ld.param.u64 	%rd97, [%rd37];
	bar.sync 	0;
	setp.eq.s64 	%p4, %rd97, 0;
	@%p4 bra 	$L__BB0_12;
	add.s32 	%r120, %r3, 1;
	sub.s32 	%r121, %r120, %r271;
	min.u32 	%r122, %r121, 128;
	mul.lo.s32 	%r8, %r122, 3;
	shl.b32 	%r124, %r118, 5;
	mov.u32 	%r125, %tid.x;
	add.s32 	%r273, %r124, %r125;
	setp.ge.u32 	%p5, %r273, %r8;
	@%p5 bra 	$L__BB0_15;
	mov.u32 	%r130, %ntid.y;
	shl.b32 	%r10, %r130, 5;
	mul.lo.s32 	%r131, %r271, 3;
	cvt.u64.u32 	%rd14, %r131;
$L__BB0_11:
	cvt.u64.u32 	%rd46, %r273;
	add.s64 	%rd47, %rd46, %rd14;
	shl.b64 	%rd48, %rd47, 3;
	add.s64 	%rd49, %rd13, %rd48;
	ld.volatile.global.u64 	%rd50, [%rd49];
	shl.b32 	%r132, %r273, 3;
	mov.u32 	%r133, _ZZ16nano_copy_piecesE6staged;
	add.s32 	%r134, %r133, %r132;
	st.shared.u64 	[%r134], %rd50;
	add.s32 	%r273, %r273, %r10;
	setp.lt.u32 	%p6, %r273, %r8;
	@%p6 bra 	$L__BB0_11;
	bra.uni 	$L__BB0_15;
$L__BB0_12:
	shl.b32 	%r136, %r118, 5;
	mov.u32 	%r137, %tid.x;
	add.s32 	%r274, %r136, %r137;
	add.s32 	%r139, %r3, 1;
	sub.s32 	%r140, %r139, %r271;
	min.u32 	%r13, %r140, 128;
	setp.ge.u32 	%p7, %r274, %r13;
	@%p7 bra 	$L__BB0_15;
	mov.u32 	%r144, %ntid.y;
	shl.b32 	%r15, %r144, 5;
$L__BB0_14:
	add.s32 	%r145, %r274, %r271;
	mul.wide.u32 	%rd51, %r145, 24;
	add.s64 	%rd52, %rd37, %rd51;
	ld.param.u64 	%rd53, [%rd52+1064];
	ld.param.u64 	%rd54, [%rd52+1072];
	ld.param.v2.u32 	{%r146, %r147}, [%rd52+1080];
	mov.u32 	%r150, _ZZ16nano_copy_piecesE6staged;
	mad.lo.s32 	%r151, %r274, 24, %r150;
	st.shared.u64 	[%r151], %rd53;
	st.shared.u64 	[%r151+8], %rd54;
	st.shared.v2.u32 	[%r151+16], {%r146, %r147};
	add.s32 	%r274, %r274, %r15;
	setp.lt.u32 	%p8, %r274, %r13;
	@%p8 bra 	$L__BB0_14;
$L__BB0_15:
	bar.sync 	0;
	add.s32 	%r152, %r3, 1;
	sub.s32 	%r153, %r152, %r271;
	min.u32 	%r154, %r153, 128;
	mov.u32 	%r155, _ZZ16nano_copy_piecesE6staged;
	mad.lo.s32 	%r156, %r154, 24, %r155;
	ld.shared.v2.u32 	{%r157, %r158}, [%r156+-8];
	add.s32 	%r161, %r157, 2047;
	shr.u32 	%r162, %r161, 11;
	add.s32 	%r163, %r162, %r158;
	min.u32 	%r18, %r163, %r4;
	setp.ge.u32 	%p9, %r323, %r18;
	@%p9 bra 	$L__BB0_81;
	mov.u32 	%r279, 0;
$L__BB0_17:
	add.s32 	%r168, %r279, 1;
	setp.eq.s32 	%p10, %r168, %r154;
	@%p10 bra 	$L__BB0_21;
	mov.u32 	%r268, _ZZ16nano_copy_piecesE6staged;
	mad.lo.s32 	%r170, %r279, 24, %r268;
	ld.shared.u32 	%r171, [%r170+44];
	setp.gt.u32 	%p11, %r171, %r323;
	sub.s32 	%r175, %r154, %r279;
	setp.lt.u32 	%p12, %r175, 2;
	or.pred  	%p13, %p11, %p12;
	@%p13 bra 	$L__BB0_21;
	mov.u32 	%r277, %r154;
$L__BB0_20:
	mov.u32 	%r269, _ZZ16nano_copy_piecesE6staged;
	add.s32 	%r178, %r277, %r279;
	shr.u32 	%r179, %r178, 1;
	mad.lo.s32 	%r181, %r179, 24, %r269;
	ld.shared.u32 	%r182, [%r181+20];
	setp.le.u32 	%p14, %r182, %r323;
	selp.b32 	%r279, %r179, %r279, %p14;
	selp.b32 	%r277, %r277, %r179, %p14;
	sub.s32 	%r183, %r277, %r279;
	setp.gt.u32 	%p15, %r183, 1;
	@%p15 bra 	$L__BB0_20;
$L__BB0_21:
	mov.u32 	%r270, _ZZ16nano_copy_piecesE6staged;
	mad.lo.s32 	%r185, %r279, 24, %r270;
	ld.shared.v2.u32 	{%r186, %r187}, [%r185+16];
	sub.s32 	%r190, %r323, %r187;
	mul.wide.u32 	%rd55, %r190, 2048;
	ld.shared.u64 	%rd56, [%r185+8];
	add.s64 	%rd16, %rd55, %rd56;
	ld.shared.u64 	%rd57, [%r185];
	add.s64 	%rd17, %rd55, %rd57;
	cvt.u64.u32 	%rd58, %r186;
	sub.s64 	%rd59, %rd58, %rd55;
	min.u64 	%rd60, %rd59, 2048;
	cvt.u32.u64 	%r27, %rd60;
	or.b64  	%rd61, %rd16, %rd17;
	or.b64  	%rd18, %rd61, %rd60;
	and.b64  	%rd62, %rd18, 15;
	setp.eq.s64 	%p16, %rd62, 0;
	@%p16 bra 	$L__BB0_61;
	and.b64  	%rd63, %rd18, 3;
	setp.eq.s64 	%p17, %rd63, 0;
	@%p17 bra 	$L__BB0_42;
	mov.u32 	%r191, %tid.x;
	cvt.u64.u32 	%rd64, %r191;
	add.s64 	%rd100, %rd16, %rd64;
	add.s64 	%rd101, %rd17, %rd64;
	sub.s32 	%r28, %r27, %r191;
	setp.lt.s32 	%p18, %r28, 1;
	@%p18 bra 	$L__BB0_80;
	mov.u32 	%r280, 0;
$L__BB0_25:
	.pragma "nounroll";
	setp.ge.s32 	%p19, %r280, %r28;
	@%p19 bra 	$L__BB0_27;
	ld.global.cs.u8 %r193, [%rd100];
	cvt.u16.u32 	%rs49, %r193;
$L__BB0_27:
	add.s32 	%r30, %r280, 32;
	setp.ge.s32 	%p20, %r30, %r28;
	@%p20 bra 	$L__BB0_29;
	add.s64 	%rd66, %rd100, 32;
	ld.global.cs.u8 %r194, [%rd66];
	cvt.u16.u32 	%rs48, %r194;
$L__BB0_29:
	add.s32 	%r31, %r280, 64;
	setp.ge.s32 	%p21, %r31, %r28;
	@%p21 bra 	$L__BB0_31;
	add.s64 	%rd67, %rd100, 64;
	ld.global.cs.u8 %r195, [%rd67];
	cvt.u16.u32 	%rs47, %r195;
$L__BB0_31:
	add.s32 	%r32, %r280, 96;
	setp.ge.s32 	%p22, %r32, %r28;
	@%p22 bra 	$L__BB0_33;
	add.s64 	%rd68, %rd100, 96;
	ld.global.cs.u8 %r196, [%rd68];
	cvt.u16.u32 	%rs46, %r196;
$L__BB0_33:
	@%p19 bra 	$L__BB0_35;
	cvt.u32.u16 	%r198, %rs49;
	and.b32  	%r197, %r198, 255;
	st.global.cs.u8 [%rd101], %r197;
$L__BB0_35:
	@%p20 bra 	$L__BB0_37;
	add.s64 	%rd70, %rd101, 32;
	cvt.u32.u16 	%r200, %rs48;
	and.b32  	%r199, %r200, 255;
	st.global.cs.u8 [%rd70], %r199;
$L__BB0_37:
	@%p21 bra 	$L__BB0_39;
	add.s64 	%rd71, %rd101, 64;
	cvt.u32.u16 	%r202, %rs47;
	and.b32  	%r201, %r202, 255;
	st.global.cs.u8 [%rd71], %r201;
$L__BB0_39:
	@%p22 bra 	$L__BB0_41;
	add.s64 	%rd72, %rd101, 96;
	cvt.u32.u16 	%r204, %rs46;
	and.b32  	%r203, %r204, 255;
	st.global.cs.u8 [%rd72], %r203;
$L__BB0_41:
	add.s32 	%r280, %r280, 128;
	add.s64 	%rd100, %rd100, 128;
	add.s64 	%rd101, %rd101, 128;
	setp.lt.s32 	%p27, %r280, %r28;
	@%p27 bra 	$L__BB0_25;
	bra.uni 	$L__BB0_80;
$L__BB0_61:
	mov.u32 	%r217, %tid.x;
	mul.wide.u32 	%rd82, %r217, 16;
	add.s64 	%rd104, %rd16, %rd82;
	add.s64 	%rd105, %rd17, %rd82;
	shr.u32 	%r218, %r27, 4;
	sub.s32 	%r52, %r218, %r217;
	setp.lt.s32 	%p38, %r52, 1;
	@%p38 bra 	$L__BB0_80;
	mov.u32 	%r306, 0;
$L__BB0_63:
	.pragma "nounroll";
	setp.ge.s32 	%p39, %r306, %r52;
	@%p39 bra 	$L__BB0_65;
	ld.global.cs.v4.u32 {%r310,%r309,%r308,%r307}, [%rd104];
$L__BB0_65:
	add.s32 	%r225, %r306, 32;
	setp.ge.s32 	%p40, %r225, %r52;
	@%p40 bra 	$L__BB0_67;
	add.s64 	%rd84, %rd104, 512;
	ld.global.cs.v4.u32 {%r314,%r313,%r312,%r311}, [%rd84];
$L__BB0_67:
	add.s32 	%r230, %r306, 64;
	setp.ge.s32 	%p41, %r230, %r52;
	@%p41 bra 	$L__BB0_69;
	add.s64 	%rd85, %rd104, 1024;
	ld.global.cs.v4.u32 {%r318,%r317,%r316,%r315}, [%rd85];
$L__BB0_69:
	add.s32 	%r235, %r306, 96;
	setp.ge.s32 	%p42, %r235, %r52;
	@%p42 bra 	$L__BB0_71;
	add.s64 	%rd86, %rd104, 1536;
	ld.global.cs.v4.u32 {%r322,%r321,%r320,%r319}, [%rd86];
$L__BB0_71:
	@%p39 bra 	$L__BB0_73;
	st.global.cs.v4.u32 [%rd105], {%r310,%r309,%r308,%r307};
$L__BB0_73:
	@%p40 bra 	$L__BB0_75;
	add.s64 	%rd88, %rd105, 512;
	st.global.cs.v4.u32 [%rd88], {%r314,%r313,%r312,%r311};
$L__BB0_75:
	@%p41 bra 	$L__BB0_77;
	add.s64 	%rd89, %rd105, 1024;
	st.global.cs.v4.u32 [%rd89], {%r318,%r317,%r316,%r315};
$L__BB0_77:
	@%p42 bra 	$L__BB0_79;
	add.s64 	%rd90, %rd105, 1536;
	st.global.cs.v4.u32 [%rd90], {%r322,%r321,%r320,%r319};
$L__BB0_79:
	add.s32 	%r306, %r306, 128;
	add.s64 	%rd104, %rd104, 2048;
	add.s64 	%rd105, %rd105, 2048;
	setp.lt.s32 	%p47, %r306, %r52;
	@%p47 bra 	$L__BB0_63;
	bra.uni 	$L__BB0_80;
$L__BB0_42:
	mov.u32 	%r205, %tid.x;
	mul.wide.u32 	%rd73, %r205, 4;
	add.s64 	%rd102, %rd16, %rd73;
	add.s64 	%rd103, %rd17, %rd73;
	shr.u32 	%r206, %r27, 2;
	sub.s32 	%r34, %r206, %r205;
	setp.lt.s32 	%p28, %r34, 1;
	@%p28 bra 	$L__BB0_80;
	mov.u32 	%r285, 0;
$L__BB0_44:
	.pragma "nounroll";
	setp.ge.s32 	%p29, %r285, %r34;
	@%p29 bra 	$L__BB0_46;
	ld.global.cs.u32 %r286, [%rd102];
$L__BB0_46:
	add.s32 	%r42, %r285, 32;
	setp.ge.s32 	%p30, %r42, %r34;
	@%p30 bra 	$L__BB0_48;
	add.s64 	%rd75, %rd102, 128;
	ld.global.cs.u32 %r287, [%rd75];
$L__BB0_48:
	add.s32 	%r45, %r285, 64;
	setp.ge.s32 	%p31, %r45, %r34;
	@%p31 bra 	$L__BB0_50;
	add.s64 	%rd76, %rd102, 256;
	ld.global.cs.u32 %r288, [%rd76];
$L__BB0_50:
	add.s32 	%r48, %r285, 96;
	setp.ge.s32 	%p32, %r48, %r34;
	@%p32 bra 	$L__BB0_52;
	add.s64 	%rd77, %rd102, 384;
	ld.global.cs.u32 %r289, [%rd77];
$L__BB0_52:
	@%p29 bra 	$L__BB0_54;
	st.global.cs.u32 [%rd103], %r286;
$L__BB0_54:
	@%p30 bra 	$L__BB0_56;
	add.s64 	%rd79, %rd103, 128;
	st.global.cs.u32 [%rd79], %r287;
$L__BB0_56:
	@%p31 bra 	$L__BB0_58;
	add.s64 	%rd80, %rd103, 256;
	st.global.cs.u32 [%rd80], %r288;
$L__BB0_58:
	@%p32 bra 	$L__BB0_60;
	add.s64 	%rd81, %rd103, 384;
	st.global.cs.u32 [%rd81], %r289;
$L__BB0_60:
	add.s32 	%r285, %r285, 128;
	add.s64 	%rd102, %rd102, 512;
	add.s64 	%rd103, %rd103, 512;
	setp.lt.s32 	%p37, %r285, %r34;
	@%p37 bra 	$L__BB0_44;
$L__BB0_80:
	mov.u32 	%r259, %ntid.y;
	add.s32 	%r323, %r323, %r259;
	setp.lt.u32 	%p48, %r323, %r18;
	@%p48 bra 	$L__BB0_17;
$L__BB0_81:
	add.s32 	%r271, %r271, 128;
	setp.gt.u32 	%p49, %r271, %r3;
	@%p49 bra 	$L__BB0_82;
	bra.uni 	$L__BB0_8;
$L__BB0_82:
	mov.u32 	%r260, %tid.x;
	bar.sync 	0;
	mov.u32 	%r261, %tid.y;
	or.b32  	%r262, %r261, %r260;
	setp.ne.s32 	%p50, %r262, 0;
	@%p50 bra 	$L__BB0_85;
	mov.u32 	%r267, %nctaid.x;
	membar.gl;
	ld.param.u64 	%rd92, [%rd37+8];
	cvta.to.global.u64 	%rd93, %rd92;
	add.s32 	%r264, %r267, -1;
	atom.global.inc.u32 	%r265, [%rd93], %r264;
	setp.ne.s32 	%p51, %r265, %r264;
	@%p51 bra 	$L__BB0_85;
	membar.sys;
	ld.param.u32 	%r266, [%rd37+24];
	ld.param.u64 	%rd95, [%rd37+16];
	cvta.to.global.u64 	%rd96, %rd95;
	st.volatile.global.u32 	[%rd96], %r266;
$L__BB0_85:
	ret;
}
)ptx";

}  // namespace nano::cuda
